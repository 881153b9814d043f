"""Crop, flip, antialiased resize and Gaussian blur of a batch of frames, each with its own parameters.

Shapes: N frames of H x W, views of s x s.

All four are linear and separable. A GPU is fastest with two batched matrix products, `rows @ frame @ columns.T`,
whose matrices carry all of them. Those grow with the third power of the size, so on a CPU each frame goes through
torch's vectorised resize of bytes instead, and through two short convolutions if it is blurred: seven times as fast at
224 px. Both ways give the same views up to two grey levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# exp(-30) is far below float32 resolution beside 1; going lower would only make slow subnormal numbers.
MIN_EXPONENT = -30.0
# Blur reaches as far as its weights are above this share of the centre's: half a grey level.
LEAST_WEIGHT = 1 / 512


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Per sample, all [N]: the crop as shares of the frame, whether it is flipped, and the blur.

    `sigma_px` is in pixels of the view; 0 means no blur.
    """

    left: Tensor
    top: Tensor
    width: Tensor
    height: Tensor
    flip: Tensor
    sigma_px: Tensor


def resample(frames: Tensor, geometry: Geometry, size: int) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, size, size] in [0, 1]: cropped, flipped, resized and blurred.

    A crop is a box of whole pixels, and nothing outside it is seen.
    """
    if frames.device.type == "cpu":
        return resample_in_bytes(frames, geometry, size)
    return resample_by_matrices(frames, geometry, size)


def whole_pixels(start: Tensor, extent: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Starts and extents as shares of an axis, [N] each -> int64 [N] each, in pixels, at least one and inside."""
    extent_px = (extent * pixels).round().clamp(1, pixels)
    start_px = torch.minimum((start * pixels).round(), pixels - extent_px)
    return start_px.long(), extent_px.long()


def resample_in_bytes(frames: Tensor, geometry: Geometry, size: int) -> Tensor:
    """`resample` frame by frame, resized as bytes and blurred as floats; fast on a CPU."""
    n, height, width, _ = frames.shape
    tops, heights = whole_pixels(geometry.top, geometry.height, height)
    lefts, widths = whole_pixels(geometry.left, geometry.width, width)
    boxes = torch.stack((tops, heights, lefts, widths), dim=1).tolist()
    flips, sigmas = geometry.flip.tolist(), geometry.sigma_px.tolist()
    planes = frames.permute(0, 3, 1, 2)
    out = torch.empty(n, 3, size, size)
    for index, (top, rows, left, columns) in enumerate(boxes):
        crop = planes[index : index + 1, :, top : top + rows, left : left + columns]
        view = functional.interpolate(crop, size=(size, size), mode="bilinear", antialias=True)
        if flips[index]:
            view = view.flip(3)
        kernel = _blur_kernel(sigmas[index])
        out[index].copy_((_blur(view.float(), kernel) if len(kernel) > 1 else view.contiguous())[0])
    return out.mul_(1 / 255)


def _blur_kernel(sigma_px: float) -> Tensor:
    """Weights beside the centre's 1, [2 r + 1], as far as they count."""
    reach = int(sigma_px * math.sqrt(-2 * math.log(LEAST_WEIGHT)))
    if not reach:
        return torch.ones(1)
    return torch.arange(-reach, reach + 1.0).div_(sigma_px).square_().mul_(-0.5).exp_()


def _blur(view: Tensor, kernel: Tensor) -> Tensor:
    """float32 [1, 3, s, s] along both axes; at the edge the weights inside are scaled to sum to 1."""
    size, taps = view.shape[3], len(kernel)
    inside = functional.conv1d(torch.ones(1, 1, size), kernel.view(1, 1, taps), padding=taps // 2)
    down = kernel.view(1, 1, taps, 1).expand(3, 1, taps, 1)
    view = functional.conv2d(view, down, padding=(taps // 2, 0), groups=3)
    view = functional.conv2d(view, down.transpose(2, 3), padding=(0, taps // 2), groups=3)
    return view.div_(inside.view(size, 1) * inside.view(1, size))


def resample_by_matrices(frames: Tensor, geometry: Geometry, size: int) -> Tensor:
    """`resample` as two batched products; fast on a GPU, and exact in float32."""
    n, height, width, _ = frames.shape
    rows = _resize_matrix(*whole_pixels(geometry.top, geometry.height, height), height, size)
    columns = _resize_matrix(*whole_pixels(geometry.left, geometry.width, width), width, size)
    columns = torch.where(geometry.flip[:, None, None], columns.flip(1), columns)
    blurred = geometry.sigma_px.nonzero().flatten()
    if len(blurred):
        blur = _blur_matrix(geometry.sigma_px[blurred], size)
        rows[blurred] = blur @ rows[blurred]
        columns[blurred] = blur @ columns[blurred]
    # With the channel between the two axes both products are plain batched ones, without a copy between them.
    planes = frames.permute(0, 1, 3, 2).contiguous().float().view(n, height, 3 * width)
    tall = torch.bmm(rows / 255.0, planes).view(n, size * 3, width)
    return torch.bmm(tall, columns.transpose(1, 2)).view(n, size, 3, size).permute(0, 2, 1, 3).contiguous()


def _resize_matrix(start: Tensor, extent: Tensor, source: int, size: int) -> Tensor:
    """Antialiased linear interpolation along one axis: int64 [N], [N] in pixels -> [N, size, source], rows sum to 1.

    The triangle is as wide as an output pixel where the crop shrinks, and as a source pixel where it grows.
    """
    step = extent.float() / size
    centres = start[:, None] + (torch.arange(size, device=start.device) + 0.5) * step[:, None]
    pixels = torch.arange(source, device=start.device)
    reach = 1 / step.clamp(min=1.0)
    distance = (centres[:, :, None] - (pixels + 0.5)).abs_().mul_(reach[:, None, None])
    weights = distance.neg_().add_(1.0).clamp_(min=0.0)
    weights *= ((pixels >= start[:, None]) & (pixels < (start + extent)[:, None]))[:, None, :]
    return weights.div_(weights.sum(2, keepdim=True))


def _blur_matrix(sigma_px: Tensor, size: int) -> Tensor:
    """Gaussian blur along one axis, cut off at the edge: [n] > 0 -> [n, size, size], rows sum to 1."""
    place = torch.arange(size, device=sigma_px.device, dtype=torch.float32)
    squares = (place[:, None] - place).square()
    exponents = squares * (-0.5 / sigma_px.square())[:, None, None]
    weights = exponents.clamp_(min=MIN_EXPONENT).exp_()
    return weights.div_(weights.sum(2, keepdim=True))
