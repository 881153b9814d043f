"""Views: colour against sequential arithmetic, draws against their law."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as vision

from serving.errors import ConfigError
from training.data import augment
from training.data.augment import (
    COLOUR_DRAWS,
    GEOMETRY_DRAWS,
    Colour,
    Jitter,
    View,
    ViewSpec,
    asymmetric_views,
    colour_matrix,
    draw_colour,
    draw_geometry,
    inspection_multi_crop_views,
    inspection_views,
    make_views,
    masked_view,
    multi_crop_views,
    recolour,
    symmetric_views,
)
from training.data.normalise import normalise, standardise
from training.data.resample import resample

PLAIN = {"crop_scale": (1.0, 1.0), "flip": 0.0, "jitter_p": 0.0, "grey_p": 0.0, "blur_p": 0.0}


def random_frames(n: int, height: int, width: int | None = None) -> torch.Tensor:
    shape = (n, height, width or height, 3)
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8))


def colour(n: int, **changes: Any) -> Colour:
    values: dict[str, Any] = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    values |= {"grey": False, "solarise": False}
    return Colour(**{name: torch.tensor([value] * n) for name, value in (values | changes).items()})


def planes(frames: torch.Tensor) -> torch.Tensor:
    return frames.permute(0, 3, 1, 2).float() / 255


def test_a_view_that_changes_nothing_is_the_normalised_frame() -> None:
    frames = random_frames(3, 24)
    (view,) = make_views(frames, ViewSpec(views=(View(size=24, **PLAIN),)), torch.Generator().manual_seed(0))
    torch.testing.assert_close(view, normalise(frames), atol=1e-5, rtol=1e-5)
    assert view.is_contiguous(memory_format=torch.channels_last)


def sequential(image: np.ndarray, order: tuple[str, ...], factors: dict[str, float]) -> np.ndarray:
    """Colour operations one after the other on [3, H, W] in float64, from their definitions."""
    luma = np.array([0.299, 0.587, 0.114])
    for name in order:
        grey = np.tensordot(luma, image, 1)
        if name == "brightness":
            image = image * factors[name]
        elif name == "contrast":
            image = factors[name] * image + (1 - factors[name]) * grey.mean()
        elif name == "saturation":
            image = factors[name] * image + (1 - factors[name]) * grey
        else:
            to_yiq = np.array([luma, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
            y, i, q = np.tensordot(to_yiq, image, 1)
            chroma = (i + 1j * q) * np.exp(2j * np.pi * factors[name])
            image = np.tensordot(np.linalg.inv(to_yiq), np.stack((y, chroma.real, chroma.imag)), 1)
    return image


@pytest.mark.parametrize("order", list(itertools.permutations(("brightness", "contrast", "saturation", "hue")))[::5])
def test_one_matrix_does_what_the_operations_do_in_any_order(order: tuple[str, ...]) -> None:
    factors = {"brightness": 0.7, "contrast": 0.6, "saturation": 1.3, "hue": 0.08}
    image = np.random.default_rng(1).random((3, 6, 5))
    matrix, offset = colour_matrix(colour(1, **factors), torch.tensor(image.mean((1, 2))).float()[None])
    ours = np.einsum("ij,jhw->ihw", matrix[0].numpy(), image) + offset[0].numpy()[:, None, None]
    np.testing.assert_allclose(ours, sequential(image, order, factors), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "factor", "theirs"),
    [
        ("brightness", 0.6, vision.adjust_brightness),
        ("contrast", 0.5, vision.adjust_contrast),
        ("saturation", 0.4, vision.adjust_saturation),
    ],
)
def test_jitters_are_those_of_torchvision(name: str, factor: float, theirs: Any) -> None:
    images = planes(random_frames(2, 12))
    expected = torch.stack([theirs(image, factor) for image in images])
    ours = recolour(images, colour(2, **{name: factor}))
    # torchvision rounds the luma weights to four digits.
    torch.testing.assert_close(ours, standardise(expected), atol=2e-3, rtol=0)


def test_grey_takes_all_colour_and_values_stay_in_range() -> None:
    images = planes(random_frames(2, 12))
    low, high = standardise(torch.zeros(1, 3, 1, 1)), standardise(torch.ones(1, 3, 1, 1))
    grey = recolour(images, colour(2, grey=True, hue=0.1, saturation=1.8))
    back = (grey - low) / (high - low)
    torch.testing.assert_close(back[:, 0], back[:, 2], atol=1e-5, rtol=0)
    torch.testing.assert_close(back[:, :1], vision.rgb_to_grayscale(images), atol=1e-3, rtol=0)
    strong = (recolour(images, colour(2, brightness=1.8, contrast=1.8)) - low) / (high - low)
    assert float(strong.min()) == pytest.approx(0, abs=1e-6)
    assert float(strong.max()) == pytest.approx(1, abs=1e-6)


def test_solarise_inverts_the_bright_half() -> None:
    images = planes(random_frames(2, 12))
    ours = recolour(images, colour(2, solarise=True))
    torch.testing.assert_close(ours, standardise(vision.solarize(images, 0.5)), atol=1e-5, rtol=0)


def test_crops_lie_inside_and_their_area_is_uniform() -> None:
    view = View(size=32)
    drawn = draw_geometry(view, torch.rand((20_000, GEOMETRY_DRAWS), generator=torch.Generator().manual_seed(0)))
    assert float((drawn.left + drawn.width).max()) <= 1 + 1e-6
    assert float((drawn.top + drawn.height).max()) <= 1 + 1e-6
    area, ratio = drawn.width * drawn.height, drawn.width / drawn.height
    quantiles = torch.quantile(area, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(quantiles, torch.tensor([0.08, 0.31, 0.54, 0.77, 1.0]), atol=0.015, rtol=0)
    assert 3 / 4 - 1e-5 <= float(ratio.min()) < 0.76
    assert 1.31 < float(ratio.max()) <= 4 / 3 + 1e-5
    assert float(ratio.log().mean()) == pytest.approx(0, abs=0.01)


def test_probabilities_and_strengths_are_those_declared() -> None:
    generator = torch.Generator().manual_seed(0)
    view = View(size=112, solarise_p=0.2)
    drawn = draw_colour(view, torch.rand((20_000, COLOUR_DRAWS), generator=generator))
    shapes = draw_geometry(view, torch.rand((20_000, GEOMETRY_DRAWS), generator=generator))
    for switch, share in ((drawn.grey, 0.2), (drawn.solarise, 0.2), (drawn.hue != 0, 0.8), (shapes.flip, 0.5)):
        assert float(switch.float().mean()) == pytest.approx(share, abs=0.015)
    assert float(drawn.hue.abs().max()) == pytest.approx(0.1, abs=1e-3)
    for factor in (drawn.brightness, drawn.contrast, drawn.saturation):
        assert (float(factor.min()), float(factor.max())) == pytest.approx((0.2, 1.8), abs=1e-2)
    sigma = shapes.sigma_px[shapes.sigma_px > 0]
    assert len(sigma) / 20_000 == pytest.approx(0.5, abs=0.015)
    assert (float(sigma.min()), float(sigma.max())) == pytest.approx((0.05, 1.0), abs=5e-3)


def test_a_seed_means_the_same_views_and_every_sample_its_own() -> None:
    frames = random_frames(1, 24).expand(40, 24, 24, 3)
    spec = ViewSpec(views=(View(size=24, count=2), View(size=16, count=1, crop_scale=(0.05, 0.4))))
    first, again, other = (make_views(frames, spec, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert [tuple(view.shape) for view in first] == [(40, 3, 24, 24), (40, 3, 24, 24), (40, 3, 16, 16)]
    assert spec.count == len(first) == 3
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    flat = torch.stack([*first[0], *first[1], *other[0]]).flatten(1)
    assert len(torch.unique(flat, dim=0)) == len(flat)


def test_views_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = random_frames(11, 20)
    whole = make_views(frames, symmetric_views(20), torch.Generator().manual_seed(3))
    monkeypatch.setattr(augment, "LARGEST_CHUNK", 4)
    chunked = make_views(frames, symmetric_views(20), torch.Generator().manual_seed(3))
    for one, other in zip(whole, chunked, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


# Of all views, unless a test says otherwise: flips and jitters at every second and most frames.
USUAL = {"crop_ratio": (3 / 4, 4 / 3), "flip": 0.5, "jitter_p": 0.8, "grey_p": 0.2, "blur_sigma": (0.1, 2.0)}
MILD = Jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
FAINT = Jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.02)


def test_symmetric_views_are_those_of_simclr() -> None:
    strong = Jitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.1)
    expected = View(size=112, count=2, crop_scale=(0.08, 1.0), jitter=strong, blur_p=0.5, solarise_p=0.0, **USUAL)
    assert symmetric_views(112) == ViewSpec(views=(expected,))


def test_asymmetric_views_are_those_of_byol_and_barlow_twins() -> None:
    first = View(size=112, count=1, crop_scale=(0.08, 1.0), jitter=MILD, blur_p=1.0, solarise_p=0.0, **USUAL)
    second = View(size=112, count=1, crop_scale=(0.08, 1.0), jitter=MILD, blur_p=0.1, solarise_p=0.2, **USUAL)
    assert asymmetric_views(112) == ViewSpec(views=(first, second))


def test_multi_crop_views_are_those_of_dino() -> None:
    first = View(size=112, crop_scale=(0.4, 1.0), jitter=MILD, blur_p=1.0, solarise_p=0.0, **USUAL)
    second = View(size=112, crop_scale=(0.4, 1.0), jitter=MILD, blur_p=0.1, solarise_p=0.2, **USUAL)
    local = View(size=48, count=5, crop_scale=(0.05, 0.4), jitter=MILD, blur_p=0.5, solarise_p=0.0, **USUAL)
    assert multi_crop_views(112, local_size=48, local_count=5) == ViewSpec(views=(first, second, local))


def test_inspection_views_are_milder() -> None:
    kept = {**USUAL, "jitter": FAINT, "grey_p": 0.1, "blur_p": 0.3, "solarise_p": 0.0}
    both = View(size=96, count=2, crop_scale=(0.2, 1.0), **kept)
    assert inspection_views(96) == ViewSpec(views=(both,))
    large = View(size=96, count=2, crop_scale=(0.4, 1.0), **kept)
    local = View(size=48, count=4, crop_scale=(0.1, 0.4), **kept)
    assert inspection_multi_crop_views(96, local_size=48, local_count=4) == ViewSpec(views=(large, local))


def test_of_asymmetric_views_one_is_always_blurred_and_the_other_seldom_and_solarised_at_times() -> None:
    generator = torch.Generator().manual_seed(0)
    for view, blurred, solarised in zip(asymmetric_views(112).views, (1.0, 0.1), (0.0, 0.2), strict=True):
        shapes = draw_geometry(view, torch.rand((20_000, GEOMETRY_DRAWS), generator=generator))
        drawn = draw_colour(view, torch.rand((20_000, COLOUR_DRAWS), generator=generator))
        assert float((shapes.sigma_px > 0).float().mean()) == pytest.approx(blurred, abs=0.01)
        assert float(drawn.solarise.float().mean()) == pytest.approx(solarised, abs=0.01)
        assert (float(drawn.brightness.min()), float(drawn.brightness.max())) == pytest.approx((0.6, 1.4), abs=1e-2)
        assert (float(drawn.saturation.min()), float(drawn.saturation.max())) == pytest.approx((0.8, 1.2), abs=1e-2)


def test_the_first_asymmetric_view_is_smoother_than_the_second() -> None:
    first, second = make_views(random_frames(64, 112), asymmetric_views(112), torch.Generator().manual_seed(0))
    steps = [(view[..., 1:] - view[..., :-1]).abs().mean() for view in (first, second)]
    assert steps[0] < 0.9 * steps[1]


def test_global_views_come_first_and_local_ones_show_less() -> None:
    # A frame whose colour says the place: red goes up from left to right, green from top to bottom.
    ramp = torch.linspace(0, 255, 64).round().to(torch.uint8)
    frames = torch.stack((ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.full_like(ramp.expand(64, 64), 9)))
    frames = frames.permute(1, 2, 0).expand(200, 64, 64, 3).contiguous()
    plain = {"jitter_p": 0.0, "grey_p": 0.0, "blur_p": 0.0, "solarise_p": 0.0}
    spec = multi_crop_views(64, local_size=32, local_count=3)
    spec = ViewSpec(views=tuple(replace(view, **plain) for view in spec.views))
    views = make_views(frames, spec, torch.Generator().manual_seed(0))
    assert [tuple(view.shape) for view in views] == [(200, 3, 64, 64)] * 2 + [(200, 3, 32, 32)] * 3
    low, high = standardise(torch.zeros(1, 3, 1, 1)), standardise(torch.ones(1, 3, 1, 1))
    for view, (least, most) in zip(views, [(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 3, strict=True):
        back = ((view - low) / (high - low)).flatten(2)
        extent = (back.amax(2) - back.amin(2))[:, :2]
        # Colours are those of pixel centres, whose outermost are a pixel nearer to each other than edges are: in the
        # frame, of 64 px, and in the view.
        side = view.shape[-1]
        shown = (extent * (63 / 64) * (side / (side - 1))).prod(1)
        assert float(shown.min()) > least - 0.02
        assert float(shown.max()) < most + 0.02
        assert float(shown.mean()) == pytest.approx((least + most) / 2, abs=0.04)


def test_a_masked_view_is_a_crop_and_a_flip_and_nothing_else() -> None:
    spec = masked_view(32)
    assert (spec.count, spec.views[0].crop_scale, spec.views[0].flip) == (1, (0.2, 1.0), 0.5)
    frames = random_frames(40, 32)
    (view,) = make_views(frames, spec, torch.Generator().manual_seed(4))
    draws = torch.rand((40, GEOMETRY_DRAWS + COLOUR_DRAWS), generator=torch.Generator().manual_seed(4))
    drawn = draw_geometry(spec.views[0], draws[:, :GEOMETRY_DRAWS])
    assert 5 < int(drawn.flip.sum()) < 35
    assert float((drawn.width * drawn.height).min()) > 0.2 - 1e-6
    assert not drawn.sigma_px.any()
    torch.testing.assert_close(view, standardise(resample(frames, drawn, 32)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "spec",
    [asymmetric_views(24), multi_crop_views(24, local_size=16, local_count=2), masked_view(24)],
    ids=["asymmetric", "multi-crop", "masked"],
)
def test_views_of_any_kind_come_from_the_seed_alone(spec: ViewSpec) -> None:
    frames = random_frames(6, 30)
    first, again, other = (make_views(frames, spec, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert len(first) == spec.count
    for one, same, different in zip(first, again, other, strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, different)
    # What one frame gets does not depend on what the frames beside it show.
    changed = frames.clone()
    changed[1:] = 255 - changed[1:]
    alone = make_views(changed, spec, torch.Generator().manual_seed(1))
    for one, same in zip(first, alone, strict=True):
        torch.testing.assert_close(one[0], same[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("frames", [torch.zeros(2, 8, 8, 3), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)])
def test_only_uint8_frames_are_taken(frames: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="uint8"):
        make_views(frames, symmetric_views(8), torch.Generator())


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 0},
        {"count": 0},
        {"flip": 1.5},
        {"grey_p": -0.1},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.1, 1.1)},
        {"crop_ratio": (1.2, 1.5)},
        {"blur_sigma": (2.0, 1.0)},
    ],
)
def test_views_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="view"):
        View(**{"size": 32, **changes})


def test_jitter_and_empty_specs_are_checked() -> None:
    for changes in ({"hue": 0.2}, {"brightness": 1.5}, {"contrast": -0.1}):
        with pytest.raises(ConfigError, match="jitter"):
            Jitter(**changes)
    with pytest.raises(ConfigError, match="at least one view"):
        ViewSpec(views=())
