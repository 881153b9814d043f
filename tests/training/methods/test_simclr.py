"""NT-Xent against the equation, finite differences and lightly; its invariances; SimCLR's first steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lightly.loss import NTXentLoss
from numpy.typing import NDArray

from training.backbones import seeded_init
from training.data.augment import make_views, symmetric_views
from training.methods import METHODS
from training.methods.simclr import SimCLR, SimCLRConfig, nt_xent
from training.optim import OptimConfig, build_optimizer
from training.runs import random_encoder


def reference(first: NDArray[np.float64], second: NDArray[np.float64], temperature: float) -> float:
    """Equation 1 of the paper term by term, with its own loops and nothing of torch."""
    views = [z / np.sqrt((z * z).sum()) for z in [*first, *second]]
    n, losses = len(first), []
    for i, z_i in enumerate(views):
        j = i + n if i < n else i - n
        others = sum(math.exp(z_i @ views[k] / temperature) for k in range(2 * n) if k != i)
        losses.append(-math.log(math.exp(z_i @ views[j] / temperature) / others))
    return float(np.mean(losses))


@pytest.fixture
def projections() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return first, first + 0.5 * torch.randn(6, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
def test_value_is_that_of_the_equation(projections: tuple[torch.Tensor, torch.Tensor], temperature: float) -> None:
    first, second = projections
    expected = reference(first.numpy(), second.numpy(), temperature)
    assert float(nt_xent(first, second, temperature=temperature)) == pytest.approx(expected, rel=1e-12)
    single = nt_xent(first.float(), second.float(), temperature=temperature)
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(expected, rel=1e-5)


def test_gradient_is_that_of_the_equation(projections: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, second = (z.clone().requires_grad_() for z in projections)
    nt_xent(first, second, temperature=0.2).backward()
    arrays = [z.detach().numpy().copy() for z in (first, second)]
    delta = 1e-5
    for array, analytic in zip(arrays, (first.grad, second.grad), strict=True):
        assert analytic is not None
        for place in np.ndindex(array.shape):
            kept = array[place]
            values = []
            for shift in (delta, -delta):
                array[place] = kept + shift
                values.append(reference(arrays[0], arrays[1], 0.2))
            array[place] = kept
            assert float(analytic[place]) == pytest.approx((values[0] - values[1]) / (2 * delta), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_value_and_gradient_are_those_of_lightly(
    projections: tuple[torch.Tensor, torch.Tensor], temperature: float
) -> None:
    ours, theirs = ([z.clone().requires_grad_() for z in projections] for _ in range(2))
    ours_loss = nt_xent(*ours, temperature=temperature)
    theirs_loss = NTXentLoss(temperature=temperature)(*theirs)
    torch.testing.assert_close(ours_loss, theirs_loss, rtol=1e-10, atol=0)
    ours_loss.backward()
    theirs_loss.backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-8, atol=1e-12)


def test_neither_order_nor_which_view_is_first_nor_scale_matters(
    projections: tuple[torch.Tensor, torch.Tensor],
) -> None:
    first, second = projections
    loss = nt_xent(first, second, temperature=0.2)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    scales = torch.tensor([0.1, 1, 2, 3, 50, 1e3], dtype=torch.float64)[:, None]
    for same in ((first[order], second[order]), (second, first), (scales * first, 7 * second)):
        torch.testing.assert_close(nt_xent(*same, temperature=0.2), loss, rtol=1e-12, atol=0)
    assert nt_xent(first, second[order], temperature=0.2) > loss


def test_identical_embeddings_cost_as_much_as_guessing() -> None:
    same = torch.ones(8, 4)
    assert float(nt_xent(same, same, temperature=0.2)) == pytest.approx(math.log(2 * 8 - 1), rel=1e-6)


def test_loss_is_float32_under_autocast(projections: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, second = (z.bfloat16() for z in projections)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = nt_xent(first, second, temperature=0.2)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, nt_xent(first.float(), second.float(), temperature=0.2))


@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((1, 3), (1, 3)), ((4,), (4,))])
def test_projections_that_do_not_pair_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="N >= 2"):
        nt_xent(torch.ones(shapes[0]), torch.ones(shapes[1]), temperature=0.2)


# Losses on sixteen drawn frames, float32, CPU. Threads, processors and versions of torch differ in the order of their
# sums, and training amplifies that: to 2 % over 20 AdamW steps without batch norm in the encoder, which the
# tolerance doubles; with batch norm and LARS beyond the seventh step much more, so the curve ends there.
ADAMW = OptimConfig(name="adamw", lr=5e-4, weight_decay=0.05, warmup_epochs=0)
LARS = OptimConfig(name="lars", lr=0.03, weight_decay=1e-4, warmup_epochs=0)
GOLDEN_VIT = [4.876, 4.7082, 3.9558, 3.076, 2.3035, 2.0135, 1.8844, 1.5445, 1.2401, 1.1414]
GOLDEN_VIT += [1.0254, 0.962, 0.8695, 0.8401, 0.7962, 0.7717, 0.7278, 0.699, 0.6567, 0.6368]
GOLDEN_RESNET = [3.9458, 2.2626, 1.7728, 1.2224, 0.9616, 0.8127, 0.6614]


def simclr_losses(encoder: str, optim: OptimConfig, steps: int) -> list[float]:
    rng = np.random.default_rng(0)
    blocks = np.repeat(np.repeat(rng.integers(0, 256, size=(16, 4, 4, 3)), 8, axis=1), 8, axis=2)
    frames = torch.from_numpy(blocks.astype(np.uint8))
    with seeded_init(0):
        method = SimCLR(random_encoder(encoder, 32, seed=0).train(), SimCLRConfig(views=symmetric_views(32)))
    optimizer, losses = build_optimizer(method, optim), []
    for step in range(steps):
        # The same views at each step: fresh ones would bury the slope under their own differences.
        views = make_views(frames, method.views, torch.Generator().manual_seed(0))
        loss = method.loss(views, step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(
    ("encoder", "optim", "golden", "tolerance"),
    [("vit_tiny", ADAMW, GOLDEN_VIT, 0.04), ("resnet18", LARS, GOLDEN_RESNET, 0.01)],
)
def test_the_loss_curve_is_the_golden_one(
    encoder: str, optim: OptimConfig, golden: list[float], tolerance: float
) -> None:
    assert simclr_losses(encoder, optim, len(golden)) == pytest.approx(golden, rel=tolerance)


def test_it_is_in_the_table_and_trains_encoder_and_head() -> None:
    assert METHODS["simclr"] is SimCLR
    method = SimCLR(random_encoder("vit_tiny", 32, seed=0), SimCLRConfig(views=symmetric_views(32)))
    generator = torch.Generator().manual_seed(0)
    method.loss([torch.randn(4, 3, 32, 32, generator=generator) for _ in range(2)], 0.0).backward()
    without = [name for name, parameter in method.named_parameters() if parameter.grad is None]
    assert not without
