"""The sensor: deterministic by frame, independent of the batch, and each effect in the direction it should go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.simulator.imaging import RANGES, Sensor, code, draw_sensor, expose, to_bytes
from training.simulator.render import Rendered

CLEAN = Sensor(
    brightness=0.2,
    contrast=1.0,
    saturation=1.0,
    warmth=0.0,
    vignetting=0.0,
    defocus=0.35,
    sharpening=0.0,
    fog=0.0,
    shot_noise=0.0,
    read_noise=0.0,
    interlace_shift=0.0,
    quality=90.0,
    dirt=(),
)


def scene(n: int = 2, size: int = 64) -> Rendered:
    linear = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 0.3
    return Rendered(
        linear=linear, depth_m=torch.ones(n, size, size), classes=torch.zeros(n, size, size, dtype=torch.uint8)
    )


def test_a_frame_depends_on_its_seed_and_not_on_its_batch() -> None:
    sensor = draw_sensor(np.random.default_rng(0), profile="standard")
    both = expose(scene(), sensor, [5, 6])
    alone = expose(Rendered(**{k: v[1:] for k, v in vars(scene()).items()}), sensor, [6])
    assert torch.equal(both[1], alone[0])
    assert not torch.equal(expose(scene(), sensor, [5, 7])[1], both[1])


def test_exposure_brings_dark_and_bright_scenes_to_the_same_mean() -> None:
    dark = scene()
    bright = Rendered(linear=dark.linear * 2.5, depth_m=dark.depth_m, classes=dark.classes)
    means = [float(expose(s, CLEAN, [0, 1], flutter=0.0).mean()) for s in (dark, bright)]
    assert means[0] == pytest.approx(means[1], abs=0.01)


def test_effects_go_the_way_they_should() -> None:
    plain = expose(scene(), CLEAN, [0, 1], flutter=0.0)
    dim = expose(scene(), replace(CLEAN, vignetting=0.8), [0, 1], flutter=0.0)
    assert dim[..., 0, 0].mean() < plain[..., 0, 0].mean()
    foggy = expose(scene(), replace(CLEAN, fog=3.0), [0, 1], flutter=0.0)
    assert foggy.std() < plain.std()
    noisy = expose(scene(), replace(CLEAN, read_noise=0.05), [0, 1], flutter=0.0)
    assert noisy.std() > plain.std()
    warm = expose(scene(), replace(CLEAN, warmth=0.2), [0, 1], flutter=0.0)
    assert (warm[:, 0] - warm[:, 2]).mean() > (plain[:, 0] - plain[:, 2]).mean() + 0.05


def test_coding_keeps_shape_and_loses_detail_with_quality() -> None:
    frame = to_bytes(expose(scene(), CLEAN, [0, 1]))[0]
    errors = []
    for quality in (90, 25):
        coded = code(frame, replace(CLEAN, quality=quality))
        assert coded.shape == frame.shape
        assert coded.dtype == np.uint8
        errors.append(np.abs(coded.astype(int) - frame).mean())
    assert errors[1] > errors[0] > 0


def test_the_shifted_profile_is_outside_the_standard_one() -> None:
    for name in ("brightness", "contrast", "saturation", "vignetting", "sharpening", "quality"):
        (a, b), (c, d) = RANGES["standard"][name], RANGES["shifted"][name]
        assert d <= a or c >= b, name
