"""Barlow Twins' loss against the equation, finite differences and lightly; its invariances; first steps."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lightly.loss import BarlowTwinsLoss
from numpy.typing import NDArray
from support.methods import (
    ADAMW,
    LARS,
    SIZE,
    assert_is_the_equation,
    assert_same_value_and_gradient,
    build_method,
    gradients_after_one_loss,
    same_views,
    training_losses,
)

from serving.errors import ConfigError
from training.data.augment import View, ViewSpec, asymmetric_views
from training.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig, barlow_twins_loss
from training.optim import OptimConfig

# A narrow head: what is checked does not depend on its width, and time does.
CONFIG = BarlowTwinsConfig(views=asymmetric_views(SIZE), projector=(128, 128, 64))


def reference(first: NDArray[np.float64], second: NDArray[np.float64], redundancy_weight: float) -> float:
    """Equations 1 and 2 of the paper entry by entry, with the 1e-5 that the variances get."""
    n, features = first.shape
    total = 0.0
    for i in range(features):
        a = first[:, i] - first[:, i].sum() / n
        for j in range(features):
            b = second[:, j] - second[:, j].sum() / n
            lengths = math.sqrt((a * a).sum() + n * 1e-5) * math.sqrt((b * b).sum() + n * 1e-5)
            correlation = (a * b).sum() / lengths
            total += (1 - correlation) ** 2 if i == j else redundancy_weight * correlation**2
    return total


@pytest.fixture
def projections() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = 2 + 3 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return first, first + 0.5 * torch.randn(6, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("weight", [5e-3, 0.5])
def test_value_and_gradient_are_those_of_the_equation(
    projections: tuple[torch.Tensor, torch.Tensor], weight: float
) -> None:
    ours, theirs = (partial(loss, redundancy_weight=weight) for loss in (barlow_twins_loss, reference))
    assert_is_the_equation(ours, theirs, *projections)


@pytest.mark.parametrize("weight", [5e-3, 0.5])
def test_value_and_gradient_are_those_of_lightly(projections: tuple[torch.Tensor, torch.Tensor], weight: float) -> None:
    ours = partial(barlow_twins_loss, redundancy_weight=weight)
    assert_same_value_and_gradient(ours, BarlowTwinsLoss(lambda_param=weight), *projections)


def test_neither_order_nor_which_view_is_first_nor_mean_nor_sign_matters(
    projections: tuple[torch.Tensor, torch.Tensor],
) -> None:
    first, second = projections
    loss = barlow_twins_loss(first, second, redundancy_weight=0.1)
    order, features = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([4, 2, 0, 1, 3])
    shifts = torch.tensor([-9.0, 0, 1, 2, 50], dtype=torch.float64)
    signs = torch.tensor([1.0, -1, 1, -1, -1], dtype=torch.float64)
    for same in (
        (first[order], second[order]),
        (second, first),
        (first[:, features], second[:, features]),
        (first + shifts, second - 7),
        (signs * first, signs * second),
    ):
        torch.testing.assert_close(barlow_twins_loss(*same, redundancy_weight=0.1), loss, rtol=1e-10, atol=0)
    assert barlow_twins_loss(first, second[order], redundancy_weight=0.1) > loss
    assert barlow_twins_loss(first, signs * second, redundancy_weight=0.1) > loss


def test_the_scale_of_a_feature_hardly_matters(projections: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, second = projections
    scales = torch.tensor([0.5, 1, 2, 30, 1e3], dtype=torch.float64)
    scaled = barlow_twins_loss(scales * first, 7 * second, redundancy_weight=0.1)
    # All that is not quite the same is the 1e-5 beside the variances, here of 1 and more.
    torch.testing.assert_close(scaled, barlow_twins_loss(first, second, redundancy_weight=0.1), rtol=1e-4, atol=0)


def test_losses_that_can_be_told_without_arithmetic() -> None:
    loss = partial(barlow_twins_loss, redundancy_weight=0.005)
    uncorrelated = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    # Perfect: the views agree and the features tell nothing of each other.
    assert float(loss(uncorrelated, uncorrelated)) == pytest.approx(0, abs=1e-9)
    # The views contradict each other: C = -1 on the diagonal.
    assert float(loss(uncorrelated, -uncorrelated)) == pytest.approx(3 * 2**2, rel=1e-4)
    # All features tell the same: C = 1 everywhere, six entries off the diagonal.
    repeated = uncorrelated[:, :1].expand(4, 3)
    assert float(loss(repeated, repeated)) == pytest.approx(0.005 * 6, rel=1e-4)
    # Collapsed: C = 0.
    assert float(loss(torch.ones(4, 3), torch.ones(4, 3))) == pytest.approx(3)


def test_loss_is_float32_under_autocast(projections: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, second = (z.bfloat16() for z in projections)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = barlow_twins_loss(first, second, redundancy_weight=0.1)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, barlow_twins_loss(first.float(), second.float(), redundancy_weight=0.1))


@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((1, 3), (1, 3)), ((4,), (4,))])
def test_projections_that_do_not_pair_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="N >= 2"):
        barlow_twins_loss(torch.ones(shapes[0]), torch.ones(shapes[1]), redundancy_weight=0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"views": ViewSpec(views=(View(size=SIZE, count=3),))}, "barlow_twins compares two views .* makes 3"),
        ({"redundancy_weight": 0.0}, "redundancy_weight and scale must be positive"),
        ({"redundancy_weight": math.nan}, "redundancy_weight and scale must be positive"),
        ({"scale": -0.1}, "redundancy_weight and scale must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **changes)


def test_the_method_scales_the_loss_of_its_projections() -> None:
    config = replace(CONFIG, redundancy_weight=0.02, scale=0.3)
    method = build_method("barlow_twins", "vit_tiny", config)
    views = same_views(method)
    with torch.no_grad():
        first, second = (method.projector(method.encoder(view)) for view in views)
        expected = 0.3 * reference(first.double().numpy(), second.double().numpy(), 0.02)
        assert float(method.loss(views, 0.5)) == pytest.approx(expected, rel=1e-4)


def test_each_view_has_batch_statistics_of_its_own() -> None:
    method = build_method("barlow_twins", "resnet18", CONFIG)
    method.loss(same_views(method), 0.0)
    passes = {int(value) for name, value in method.named_buffers() if name.endswith("num_batches_tracked")}
    assert passes == {2}


def test_the_loss_of_a_mixed_precision_step_is_float32() -> None:
    method = build_method("barlow_twins", "resnet18", CONFIG)
    views = same_views(method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.loss(views, 0.0)
    assert loss.dtype == torch.float32
    assert bool(loss.isfinite())


# Losses on sixteen drawn frames, float32, CPU. Started from weights off by 1e-6 of themselves, which is more than
# threads and processors differ by, the transformer's curve stays within 0.4 % over 12 steps and the ResNet's within
# 0.3 % over 5, then leaves the tolerance.
GOLDEN_VIT = [6.2984, 3.9722, 2.486, 1.4795, 1.0687, 0.86942, 0.74917, 0.66084, 0.59489, 0.54037, 0.49702, 0.46505]
GOLDEN_RESNET = [6.4959, 2.1386, 1.0309, 0.68331, 0.55897]


@pytest.mark.parametrize(
    ("encoder", "optim", "golden", "tolerance"),
    [("vit_tiny", ADAMW, GOLDEN_VIT, 0.02), ("resnet18", LARS, GOLDEN_RESNET, 0.01)],
)
def test_the_loss_curve_is_the_golden_one(
    encoder: str, optim: OptimConfig, golden: list[float], tolerance: float
) -> None:
    method = build_method("barlow_twins", encoder, CONFIG)
    assert training_losses(method, optim, len(golden)) == pytest.approx(golden, rel=tolerance)


@pytest.mark.parametrize("encoder", ["resnet18", "vit_tiny"])
def test_it_is_in_the_table_and_trains_encoder_and_head(encoder: str) -> None:
    method = build_method("barlow_twins", encoder, CONFIG)
    assert isinstance(method, BarlowTwins)
    assert gradients_after_one_loss(method) == (set(), set())
