"""Crops, flips, resizes and blurs against torch's own and against arithmetic; the CPU's way against the GPU's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.data.augment import View, draw_geometry
from training.data.resample import Geometry, resample, resample_by_matrices, resample_in_bytes, whole_pixels

Resampler = Callable[[Tensor, Geometry, int], Tensor]

GREY_LEVEL = 1 / 255
# How far each may be from exact arithmetic: bytes are rounded once, with weights of 16 bits.
WAYS = [
    pytest.param(resample_in_bytes, 1.01 * GREY_LEVEL, id="bytes"),
    pytest.param(resample_by_matrices, 1e-5, id="matrices"),
]


def random_frames(n: int, height: int, width: int | None = None) -> Tensor:
    shape = (n, height, width or height, 3)
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8))


def geometry(n: int, **changes: Any) -> Geometry:
    values: dict[str, Any] = {"left": 0.0, "top": 0.0, "width": 1.0, "height": 1.0, "flip": False, "sigma_px": 0.0}
    return Geometry(**{name: torch.tensor([value] * n) for name, value in (values | changes).items()})


def planes(frames: Tensor) -> Tensor:
    return frames.permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize(("way", "atol"), WAYS)
def test_a_crop_that_needs_no_resizing_is_the_frame_itself(way: Resampler, atol: float) -> None:
    frames = random_frames(2, 20, 24)
    crop = geometry(2, left=4 / 24, top=3 / 20, width=12 / 24, height=12 / 20)
    torch.testing.assert_close(way(frames, crop, 12), planes(frames[:, 3:15, 4:16]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("way", "atol"), WAYS)
@pytest.mark.parametrize("size", [16, 40, 57])
def test_resizing_is_antialiased_bilinear_of_the_crop_alone_as_in_torch(way: Resampler, atol: float, size: int) -> None:
    frames, crop = random_frames(2, 40, 48), {"left": 0.25, "top": 0.1, "width": 0.3, "height": 0.6}
    for box, changes in (((0, 40, 0, 48), {}), ((4, 28, 12, 26), crop)):
        top, bottom, left, right = box
        exact = planes(frames)[:, :, top:bottom, left:right]
        expected = functional.interpolate(exact, size=(size, size), mode="bilinear", antialias=True)
        torch.testing.assert_close(way(frames, geometry(2, **changes), size), expected, atol=atol, rtol=0)


@pytest.mark.parametrize(("way", "atol"), WAYS)
def test_a_fine_chequerboard_shrinks_to_grey(way: Resampler, atol: float) -> None:
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255).to(torch.uint8)
    small = way(board[None, :, :, None].expand(1, 64, 64, 3), geometry(1), 16)
    assert float((small[..., 1:-1, 1:-1] - 0.5).abs().max()) < 1e-3 + atol


@pytest.mark.parametrize(("way", "atol"), WAYS)
def test_a_flip_mirrors_left_and_right(way: Resampler, atol: float) -> None:
    frames = random_frames(2, 16)
    crop = {"left": 0.2, "top": 0.3, "width": 0.5, "height": 0.6, "sigma_px": 0.7}
    flipped, straight = (way(frames, geometry(2, flip=flip, **crop), 16) for flip in (True, False))
    torch.testing.assert_close(flipped, straight.flip(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("way", "atol"), WAYS)
def test_blur_is_gaussian_and_per_sample(way: Resampler, atol: float) -> None:
    frames = torch.zeros(2, 31, 31, 3, dtype=torch.uint8)
    frames[:, 15, 15] = 255
    drawn = geometry(2)
    sharp, blurred = way(frames, Geometry(**{**vars(drawn), "sigma_px": torch.tensor([0.0, 1.5])}), 31)
    distance = np.arange(31) - 15.0
    line = np.exp(-(distance**2) / (2 * 1.5**2))
    expected = np.outer(line, line) / line.sum() ** 2
    np.testing.assert_allclose(blurred[0].numpy(), expected, atol=atol)
    torch.testing.assert_close(sharp, planes(frames)[0])


@pytest.mark.parametrize(("way", "atol"), WAYS)
def test_blur_keeps_a_flat_frame_flat_up_to_its_edge(way: Resampler, atol: float) -> None:
    flat = torch.full((1, 20, 20, 3), 200, dtype=torch.uint8)
    torch.testing.assert_close(way(flat, geometry(1, sigma_px=3.0), 20), planes(flat), atol=1e-5, rtol=0)


def test_blur_wider_than_the_view_is_the_same_both_ways() -> None:
    frames = random_frames(1, 12)
    wide = geometry(1, sigma_px=4.0)
    torch.testing.assert_close(
        resample_in_bytes(frames, wide, 12), resample_by_matrices(frames, wide, 12), atol=0.5 * GREY_LEVEL, rtol=0
    )


@pytest.mark.parametrize("size", [24, 64, 112])
def test_both_ways_give_the_same_views_up_to_two_grey_levels(size: int) -> None:
    frames = random_frames(48, 80, 64)
    drawn = draw_geometry(View(size=size), torch.rand((48, 7), generator=torch.Generator().manual_seed(5)))
    one, other = resample_in_bytes(frames, drawn, size), resample_by_matrices(frames, drawn, size)
    assert one.shape == other.shape == (48, 3, size, size)
    difference = (one - other).abs()
    assert float(difference.max()) < 2 * GREY_LEVEL
    assert float(difference.mean()) < 0.5 * GREY_LEVEL


def test_the_cpu_resamples_bytes() -> None:
    frames, drawn = random_frames(2, 40), geometry(2, width=0.7)
    assert torch.equal(resample(frames, drawn, 16), resample_in_bytes(frames, drawn, 16))


def test_boxes_are_whole_pixels_inside_the_frame_and_never_empty() -> None:
    generator = torch.Generator().manual_seed(0)
    extent = torch.rand(1000, generator=generator)
    start = torch.rand(1000, generator=generator) * (1 - extent)
    start_px, extent_px = whole_pixels(start, extent, 7)
    assert start_px.dtype == extent_px.dtype == torch.int64
    assert int(start_px.min()) == 0
    assert int((start_px + extent_px).max()) == 7
    assert int(extent_px.min()) == 1
    assert float((start_px - start * 7).abs().max()) <= 1
    assert [int(px) for px in whole_pixels(torch.tensor([0.5]), torch.tensor([0.5]), 9)] == [4, 4]
