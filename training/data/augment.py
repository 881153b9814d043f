"""Augmented views of a batch of frames, made on the training device, parameters drawn per sample.

Shapes: N frames of H x W, views of s x s.

Crop, flip, antialiased resize and Gaussian blur are those of `training.data.resample`. Brightness, contrast,
saturation, hue and grayscale are affine in the colour, so they are one 3x3 matrix and one offset per sample, with the
standardisation folded in. A view costs a few passes over memory in all, on any device.

Two deviations from the usual chain, both deliberate: values are clamped once, after the last colour operation,
rather than after each; and a hue shift turns the chroma plane of YIQ, which keeps luma, instead of going through
HSV. Without clamps in between, the four jitters commute, so no order is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from serving.errors import ConfigError
from training.data.normalise import MEAN, STD
from training.data.resample import Geometry, resample
from training.distributed import draw_uniform

# Rec. 601 luma, and the rows that complete it to YIQ.
LUMA = (0.299, 0.587, 0.114)
YIQ = (LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))
# Blur is given in pixels of a view of this size and scaled with the view, so that a crack one pixel wide at
# 112 px is not wiped out by what is mild at 224 px.
BLUR_REFERENCE_PX = 224
# Views worked on at a time on the CPU, in bytes of float32: they stay in the cache between their passes.
CPU_CHUNK_BYTES = 2 * 2**20
LEAST_CHUNK, LARGEST_CHUNK = 4, 32


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Strengths: factors are drawn from [max(0, 1 - v), 1 + v], the hue shift from [-hue, hue] turns."""

    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.1

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"jitter: {name} must lie in [0, 1], got {getattr(self, name)}")
        # Rust, roots and clay are told apart by colour: a stronger shift would erase what a frame shows.
        if not 0 <= self.hue <= 0.1:
            raise ConfigError(f"jitter: hue must lie in [0, 0.1] turns, got {self.hue}")


@dataclass(frozen=True, kw_only=True)
class View:
    """How one kind of view is drawn; the defaults are SimCLR's.

    Attributes:
        size: side of the view in pixels.
        count: how many views of this kind each frame gets.
        crop_scale: least and greatest share of the frame's area.
        crop_ratio: least and greatest width / height of the crop.
        flip: probability of a left-right flip.
        jitter, jitter_p: strengths of the colour jitter, and its probability.
        grey_p: probability of grayscale.
        blur_p, blur_sigma: probability of a blur, and the range of its sigma in pixels at 224 px.
        solarise_p: probability that values of 0.5 and above are inverted.
    """

    size: int
    count: int = 1
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: Jitter = Jitter()
    jitter_p: float = 0.8
    grey_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise_p: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1 or self.count < 1:
            raise ConfigError(f"view: size and count must be positive, got {self.size} and {self.count}")
        for name in ("flip", "jitter_p", "grey_p", "blur_p", "solarise_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"view: {name} must be a probability, got {getattr(self, name)}")
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ConfigError(f"view: {name} must be two rising positive numbers, got {low}, {high}")
        if self.crop_scale[1] > 1:
            raise ConfigError(f"view: crop_scale is a share of the frame, at most 1, got {self.crop_scale[1]}")
        if self.crop_ratio[0] > 1 or self.crop_ratio[1] < 1:
            raise ConfigError(f"view: crop_ratio must include 1, got {self.crop_ratio}")


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """All views that a method wants of each frame, in this order."""

    views: tuple[View, ...]

    def __post_init__(self) -> None:
        if not self.views:
            raise ConfigError("a view spec needs at least one view")

    @property
    def count(self) -> int:
        """Views made of each frame."""
        return sum(view.count for view in self.views)


def symmetric_views(size: int) -> ViewSpec:
    """Two views drawn alike (Chen et al. 2020, appendix A; hue held to 0.1)."""
    return ViewSpec(views=(View(size=size, count=2),))


def inspection_views(size: int) -> ViewSpec:
    """Two views drawn alike, milder than SimCLR's.

    A defect is small, and partly a matter of colour. Two crops of a twelfth of the frame each seldom both show it,
    and a strong jitter hides a stain or a root; what is left to recognise a frame by is the pipe, not the defect.
    """
    jitter = Jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.02)
    view = View(size=size, count=2, crop_scale=(0.2, 1.0), jitter=jitter, grey_p=0.1, blur_p=0.3)
    return ViewSpec(views=(view,))


def asymmetric_views(size: int) -> ViewSpec:
    """Two views drawn unlike: one always blurred, the other seldom, and solarised at times (Grill et al. 2020, table 6;
    Zbontar et al. 2021, appendix A)."""
    jitter = Jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    first = View(size=size, jitter=jitter, blur_p=1.0)
    return ViewSpec(views=(first, replace(first, blur_p=0.1, solarise_p=0.2)))


def multi_crop_views(size: int, *, local_size: int, local_count: int) -> ViewSpec:
    """Two large views, drawn unlike, then `local_count` small ones of small parts (Caron et al. 2021, appendix C)."""
    (first, second), scale = asymmetric_views(size).views, (0.4, 1.0)
    local = replace(first, size=local_size, count=local_count, crop_scale=(0.05, 0.4), blur_p=0.5)
    return ViewSpec(views=(replace(first, crop_scale=scale), replace(second, crop_scale=scale), local))


def inspection_multi_crop_views(size: int, *, local_size: int, local_count: int) -> ViewSpec:
    """`multi_crop_views`, as mild as `inspection_views` in colour, with local views that may still hold a defect."""
    (mild,) = inspection_views(size).views
    local = replace(mild, size=local_size, count=local_count, crop_scale=(0.1, 0.4))
    return ViewSpec(views=(replace(mild, crop_scale=(0.4, 1.0)), local))


def masked_view(size: int) -> ViewSpec:
    """One view, cropped and flipped alone: what is hidden is the task (He et al. 2022, section 4)."""
    view = View(size=size, crop_scale=(0.2, 1.0), jitter_p=0.0, grey_p=0.0, blur_p=0.0)
    return ViewSpec(views=(view,))


def make_views(frames: Tensor, spec: ViewSpec, generator: torch.Generator) -> list[Tensor]:
    """Draw the views of `spec` for each frame.

    Args:
        frames: uint8 [N, H, W, 3], on the device that shall do the work.
        spec: what to draw.
        generator: on the CPU whatever the device is, so that a seed means the same views everywhere. Where several
            processes share a batch, each frame gets the views that it would get in one.

    Returns:
        `spec.count` tensors float32 [N, 3, s, s], standardised as encoders take them, channels-last.

    Raises:
        TypeError: `frames` is not uint8 [N, H, W, 3].
    """
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise TypeError(f"frames must be uint8 [N, H, W, 3], got {frames.dtype} {tuple(frames.shape)}")
    made: list[Tensor] = []
    for view in spec.views:
        for _ in range(view.count):
            draws = draw_uniform(len(frames), DRAWS, generator)
            made.append(_make_view(frames, view, draws.to(frames.device, non_blocking=True)))
    return made


def _make_view(frames: Tensor, view: View, draws: Tensor) -> Tensor:
    shape = (len(frames), 3, view.size, view.size)
    out = torch.empty(shape, device=frames.device, memory_format=torch.channels_last)
    chunk = _chunk(view.size) if frames.device.type == "cpu" else max(len(frames), 1)
    for start in range(0, len(frames), chunk):
        part = slice(start, start + chunk)
        geometry = draw_geometry(view, draws[part, :GEOMETRY_DRAWS])
        images = resample(frames[part], geometry, view.size)
        colour = draw_colour(view, draws[part, GEOMETRY_DRAWS:])
        out[part].copy_(recolour(images, colour))
    return out


def _chunk(size: int) -> int:
    return max(LEAST_CHUNK, min(LARGEST_CHUNK, CPU_CHUNK_BYTES // (12 * size * size)))


@dataclass(frozen=True, kw_only=True)
class Colour:
    """Per sample, all [N]: three factors (1 changes nothing), hue shift in turns, and two switches (bool)."""

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    grey: Tensor
    solarise: Tensor


GEOMETRY_DRAWS = 7
COLOUR_DRAWS = 7
DRAWS = GEOMETRY_DRAWS + COLOUR_DRAWS


def draw_geometry(view: View, draws: Tensor) -> Geometry:
    """Uniform draws float32 [N, 7] in [0, 1) -> crops, flips and blurs.

    Area is uniform in `crop_scale` and the ratio log-uniform in the part of `crop_ratio` that lets a crop of that
    area fit into the frame, so nothing has to be drawn again and the area keeps its distribution.
    """
    area = torch.lerp(*_ends(view.crop_scale, draws), draws[:, 0])
    low = torch.clamp(area, min=view.crop_ratio[0]).log()
    high = torch.clamp(1 / area, max=view.crop_ratio[1]).log()
    ratio = torch.lerp(low, high, draws[:, 1]).exp()
    width = (area * ratio).sqrt().clamp(max=1)
    height = (area / ratio).sqrt().clamp(max=1)
    sigma = torch.lerp(*_ends(view.blur_sigma, draws), draws[:, 6]) * (view.size / BLUR_REFERENCE_PX)
    return Geometry(
        left=draws[:, 2] * (1 - width),
        top=draws[:, 3] * (1 - height),
        width=width,
        height=height,
        flip=draws[:, 4] < view.flip,
        sigma_px=torch.where(draws[:, 5] < view.blur_p, sigma, 0.0),
    )


def draw_colour(view: View, draws: Tensor) -> Colour:
    """Uniform draws float32 [N, 7] in [0, 1) -> colour changes."""
    jittered = draws[:, 0] < view.jitter_p
    jitter = view.jitter

    def factor(strength: float, draw: Tensor) -> Tensor:
        low, high = _ends((max(0.0, 1 - strength), 1 + strength), draws)
        return torch.where(jittered, torch.lerp(low, high, draw), 1.0)

    return Colour(
        brightness=factor(jitter.brightness, draws[:, 1]),
        contrast=factor(jitter.contrast, draws[:, 2]),
        saturation=factor(jitter.saturation, draws[:, 3]),
        hue=torch.where(jittered, (2 * draws[:, 4] - 1) * jitter.hue, 0.0),
        grey=draws[:, 5] < view.grey_p,
        solarise=draws[:, 6] < view.solarise_p,
    )


def _ends(bounds: tuple[float, float], like: Tensor) -> tuple[Tensor, Tensor]:
    return like.new_tensor(bounds[0]), like.new_tensor(bounds[1])


def colour_matrix(colour: Colour, mean_rgb: Tensor) -> tuple[Tensor, Tensor]:
    """The affine map of RGB in [0, 1] that applies all colour changes: `matrix @ rgb + offset`.

    Args:
        colour: the changes.
        mean_rgb: float32 [N, 3], mean colour of each image, which contrast turns about.

    Returns:
        matrix [N, 3, 3] and offset [N, 3].
    """
    device = mean_rgb.device
    to_yiq = torch.tensor(YIQ, device=device)
    # In YIQ, hue turns the chroma plane, saturation stretches it and grayscale flattens it; luma stays.
    saturation = torch.where(colour.grey, 0.0, colour.saturation)
    turn = colour.hue * (2 * math.pi)
    cosine, sine = saturation * turn.cos(), saturation * turn.sin()
    one, zero = torch.ones_like(turn), torch.zeros_like(turn)
    chroma = torch.stack((one, zero, zero, zero, cosine, -sine, zero, sine, cosine), dim=1).view(-1, 3, 3)
    gain = colour.brightness * colour.contrast
    matrix = gain[:, None, None] * (torch.linalg.inv(to_yiq) @ chroma @ to_yiq)
    offset = colour.brightness * (1 - colour.contrast) * (mean_rgb @ to_yiq[0])
    return matrix, offset[:, None].expand(-1, 3)


def recolour(images: Tensor, colour: Colour) -> Tensor:
    """float32 [N, 3, s, s] in [0, 1] -> colour changes, clamped to [0, 1], solarised, standardised."""
    pixels = images.flatten(2)
    matrix, offset = colour_matrix(colour, pixels.mean(2))
    std, mean = (pixels.new_tensor(values).view(3, 1) for values in (STD, MEAN))
    pixels = torch.baddbmm((offset[:, :, None] - mean) / std, matrix / std, pixels)
    for channel in range(3):
        low, high = -MEAN[channel] / STD[channel], (1 - MEAN[channel]) / STD[channel]
        pixels[:, channel].clamp_(low, high)
    solarised = colour.solarise.nonzero().flatten()
    if len(solarised):
        bright, mirror = (0.5 - mean) / std, (1 - 2 * mean) / std
        chosen = pixels[solarised]
        pixels[solarised] = torch.where(chosen >= bright, mirror - chosen, chosen)
    return pixels.view_as(images)
