"""From linear light to what a CCTV inspection system records: exposure, optics, sensor, tape.

Shapes: N frames of one inspection, H x W pixels. What belongs to the system (`Sensor`) stays the same through an
inspection; what changes from frame to frame is drawn from each frame's own seed, so a frame does not depend on the
batch that it is made in. Nothing here knows whether a frame shows a defect.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor

from training.simulator.render import Rendered

# Sizes of blurs and shifts are meant for pictures this high and scale with the picture.
REFERENCE_HEIGHT = 256

# (low, high), uniform, a value an inspection. The shifted profile is outside the standard one wherever it matters.
RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "standard": {
        "brightness": (0.10, 0.24),
        "contrast": (0.9, 1.15),
        "saturation": (0.5, 1.1),
        "warmth": (-0.10, 0.14),
        "vignetting": (0.0, 0.5),
        "defocus": (0.35, 1.1),
        "sharpening": (0.0, 1.2),
        "fog": (0.0, 0.10),
        "shot_noise": (0.005, 0.020),
        "read_noise": (0.002, 0.012),
        "interlace_shift": (0.0, 0.8),
        "quality": (45.0, 92.0),
    },
    "shifted": {
        "brightness": (0.06, 0.10),
        "contrast": (1.15, 1.4),
        "saturation": (1.1, 1.6),
        "warmth": (-0.25, -0.10),
        "vignetting": (0.5, 0.9),
        "defocus": (0.9, 1.5),
        "sharpening": (1.2, 2.0),
        "fog": (0.08, 0.2),
        "shot_noise": (0.018, 0.035),
        "read_noise": (0.010, 0.022),
        "interlace_shift": (0.5, 1.5),
        "quality": (22.0, 45.0),
    },
}


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """One inspection system. `brightness` is the mean linear luminance its automatic exposure aims at; `fog` is per
    metre; blurs and shifts are pixels at REFERENCE_HEIGHT; `dirt` are spots on the lens as (x, y, radius, strength)
    in shares of the picture; `quality` is that of the JPEG or MPEG coder."""

    brightness: float
    contrast: float
    saturation: float
    warmth: float
    vignetting: float
    defocus: float
    sharpening: float
    fog: float
    shot_noise: float
    read_noise: float
    interlace_shift: float
    quality: float
    dirt: tuple[tuple[float, float, float, float], ...]


def draw_sensor(rng: np.random.Generator, *, profile: str) -> Sensor:
    """An inspection system of the given profile."""
    values = {name: float(rng.uniform(low, high)) for name, (low, high) in RANGES[profile].items()}
    spots = int(rng.poisson(1.2))
    dirt = tuple(
        (
            float(rng.uniform(0, 1)),
            float(rng.uniform(0, 1)),
            float(rng.uniform(0.02, 0.09)),
            float(rng.uniform(-0.5, 0.35)),
        )
        for _ in range(spots)
    )
    return Sensor(**values, dirt=dirt)


def expose(rendered: Rendered, sensor: Sensor, seeds: Sequence[int], *, flutter: float = 0.08) -> Tensor:
    """What the sensor puts out before coding: float32 [N, 3, H, W], display values in [0, 1].

    Args:
        rendered: N frames in linear light.
        seeds: one seed a frame, for noise and the flutter of the exposure.
        flutter: deviation of the exposure from frame to frame; stills are taken minutes apart, video frames are not.
    """
    frames = [
        _expose_one(rendered.linear[i], rendered.depth_m[i], sensor, flutter, Generator().manual_seed(seed))
        for i, seed in enumerate(seeds)
    ]
    return torch.stack(frames)


def _expose_one(linear: Tensor, depth_m: Tensor, sensor: Sensor, flutter: float, generator: Generator) -> Tensor:
    height, width = depth_m.shape
    scale = height / REFERENCE_HEIGHT
    veil = 1 - torch.exp(-sensor.fog * depth_m)
    image = linear * (1 - veil) + 0.25 * veil
    aim = sensor.brightness * (1 + flutter * float(torch.randn((), generator=generator)))
    gain = (aim / image.mean().clamp(min=1e-3)).clamp(0.3, 6.0)
    image = image * gain * _falloff(sensor, height, width, image.device)
    image = _gaussian(image, sensor.defocus * scale)
    noise = torch.randn(image.shape, generator=generator).to(image.device)
    deviation = torch.sqrt(sensor.shot_noise**2 * image.clamp(min=0) * 4 + sensor.read_noise**2)
    image = (image + noise * deviation).clamp(0, 1)
    grey = image.mean(0, keepdim=True)
    image = grey + sensor.saturation * (image - grey)
    tint = torch.tensor((1 + sensor.warmth, 1.0, 1 - sensor.warmth), device=image.device).view(3, 1, 1)
    image = (image * tint).clamp(0, 1) ** (1 / 2.2)
    image = 0.45 + sensor.contrast * (image - 0.45)
    image = image + sensor.sharpening * (image - _gaussian(image, 1.4 * scale))
    if sensor.interlace_shift:
        image = _comb(image, sensor.interlace_shift * scale * float(torch.randn((), generator=generator)))
    return image.clamp(0, 1)


def _falloff(sensor: Sensor, height: int, width: int, device: torch.device) -> Tensor:
    """[H, W] vignetting and dirt on the lens."""
    y = torch.linspace(-1, 1, height, device=device).view(-1, 1)
    x = torch.linspace(-1, 1, width, device=device).view(1, -1)
    light = 1 - sensor.vignetting * (x * x + y * y) / 2
    for spot_x, spot_y, radius, strength in sensor.dirt:
        distance = ((x - 2 * spot_x + 1) ** 2 + (y - 2 * spot_y + 1) ** 2) / (2 * radius) ** 2
        light = light * (1 + strength * torch.exp(-(distance**2)))
    return light


def _gaussian(image: Tensor, sigma: float) -> Tensor:
    """[3, H, W] blurred by a Gaussian of `sigma` pixels, edges repeated."""
    reach = max(1, round(2.5 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / max(sigma, 1e-3)) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(image[None], (reach, reach, reach, reach), mode="replicate")
    across = F.conv2d(padded, kernel.unsqueeze(2), groups=3)
    return F.conv2d(across, kernel.unsqueeze(3), groups=3)[0]


def _comb(image: Tensor, shift: float) -> Tensor:
    """Every second line moved sideways by `shift` pixels, as between the two fields of an interlaced frame."""
    whole = round(shift)
    if whole:
        image = image.clone()
        image[:, 1::2] = torch.roll(image[:, 1::2], whole, dims=2)
    return image


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """float32 [N, 3, H, W] in [0, 1] -> uint8 [N, H, W, 3]."""
    pixels: NDArray[np.uint8] = (images * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def code(frame: NDArray[np.uint8], sensor: Sensor) -> NDArray[np.uint8]:
    """The blocks and smeared colours that the recorder's coder leaves: uint8 [H, W, 3] through JPEG (4:2:0)."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=round(sensor.quality), subsampling=2)
    return np.asarray(Image.open(buffer))
