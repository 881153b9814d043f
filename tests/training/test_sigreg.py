"""SIGReg against its definition, finite differences, the integral in closed form; its invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.sigreg import random_directions, sigreg

# Integrals of exp(-t^2 / 2), exp(-t^2) and exp(-3 t^2 / 2) over all t.
WINDOW, CROSS, TARGET = (math.sqrt(math.pi / a) for a in (0.5, 1.0, 1.5))


def reference(z: NDArray[np.float64], directions: NDArray[np.float64]) -> float:
    """The definition, direction by direction, with complex numbers and all 17 knots, and nothing of torch."""
    t = np.linspace(-5.0, 5.0, 17)
    statistics = []
    for direction in directions.T:
        phi = np.array([np.mean([np.exp(1j * knot * (row @ direction)) for row in z]) for knot in t])
        error = np.abs(phi - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)
        area = sum((error[k] + error[k + 1]) / 2 * (t[k + 1] - t[k]) for k in range(16))
        statistics.append(len(z) * area)
    return float(np.mean(statistics))


def closed_form(x: NDArray[np.float64]) -> float:
    """The integral over all t for the projections x of one direction: each product of two waves is a Gaussian's."""
    pairs = np.exp(-((x[:, None] - x[None, :]) ** 2) / 2).sum() / len(x)
    return float(WINDOW * pairs - 2 * CROSS * np.exp(-(x**2) / 4).sum() + TARGET * len(x))


@pytest.fixture
def embeddings() -> torch.Tensor:
    return 0.3 + 1.4 * torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def directions() -> torch.Tensor:
    return random_directions(5, 3, torch.Generator().manual_seed(1)).double()


def test_value_is_that_of_the_definition(embeddings: torch.Tensor, directions: torch.Tensor) -> None:
    expected = reference(embeddings.numpy(), directions.numpy())
    assert float(sigreg(embeddings, directions)) == pytest.approx(expected, rel=1e-12)
    single = sigreg(embeddings.float(), directions.float())
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(expected, rel=1e-5)


def test_gradient_is_that_of_the_definition(embeddings: torch.Tensor, directions: torch.Tensor) -> None:
    z = embeddings.clone().requires_grad_()
    sigreg(z, directions).backward()
    assert z.grad is not None
    array, along, delta = embeddings.numpy().copy(), directions.numpy(), 1e-5
    for place in np.ndindex(array.shape):
        kept = array[place]
        array[place] = kept + delta
        above = reference(array, along)
        array[place] = kept - delta
        below = reference(array, along)
        array[place] = kept
        assert float(z.grad[place]) == pytest.approx((above - below) / (2 * delta), rel=1e-5, abs=1e-8)


def test_seventeen_knots_give_the_integral() -> None:
    """As long as projections differ by less than the grid resolves; cutting at |t| = 5 leaves out 1e-6 each."""
    x = np.random.default_rng(0).uniform(-2, 2, size=40)
    found = sigreg(torch.from_numpy(x)[:, None], torch.ones(1, 1))
    assert float(found) == pytest.approx(closed_form(x), abs=1e-5 * len(x))


@pytest.mark.parametrize("place", [0.0, 0.7, -2.0])
def test_collapsed_embeddings_in_closed_form(place: float) -> None:
    """All frames at one point: the empirical characteristic function is a single wave."""
    expected = 12 * (WINDOW - 2 * CROSS * math.exp(-(place**2) / 4) + TARGET)
    collapsed = torch.tensor([[place, 0.0]], dtype=torch.float64).expand(12, 2)
    assert float(sigreg(collapsed, torch.tensor([[1.0], [0.0]]))) == pytest.approx(expected, rel=1e-5)


def test_standard_normal_embeddings_have_the_expected_value() -> None:
    """Variance of the empirical characteristic function is (1 - exp(-t^2)) / N, whatever N."""
    generator = torch.Generator().manual_seed(2)
    expected = WINDOW - TARGET
    for n in (50, 1000):
        z = torch.randn(n, 64, generator=generator, dtype=torch.float64)
        assert float(sigreg(z, random_directions(64, 256, generator))) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("change", ["shifted", "wider", "narrower", "two clusters", "rank one"])
def test_whatever_differs_from_the_standard_normal_costs_more(change: str) -> None:
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(500, 8, generator=generator)
    changed = {
        "shifted": normal + 0.5,
        "wider": 2 * normal,
        "narrower": 0.5 * normal,
        "two clusters": normal.sign(),
        "rank one": normal[:, :1].expand(500, 8),
    }[change]
    directions = random_directions(8, 64, generator)
    # The axes show that signs are not normal; a mean over many features would hide it.
    along = torch.cat((directions, torch.eye(8)), dim=1)
    assert sigreg(changed, along) > 3 * sigreg(normal, along)


def test_descending_it_makes_embeddings_standard_normal() -> None:
    generator = torch.Generator().manual_seed(4)
    z = 1 + 0.2 * torch.randn(64, 4, generator=generator)
    for _ in range(200):
        z.requires_grad_()
        (slope,) = torch.autograd.grad(sigreg(z, random_directions(4, 16, generator)), z)
        z = (z - 0.5 * slope).detach()
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(4), atol=0.1, rtol=0)
    torch.testing.assert_close(z.T.cov(), torch.eye(4), atol=0.2, rtol=0)


def test_order_rotation_and_mirror_images_do_not_matter(embeddings: torch.Tensor, directions: torch.Tensor) -> None:
    value = sigreg(embeddings, directions)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    flipped = directions * torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    for same in (
        (embeddings.flip(0), directions),
        (embeddings @ rotation, rotation.T @ directions),
        (-embeddings, directions),
        (embeddings, flipped),
        (embeddings, directions.flip(1)),
    ):
        torch.testing.assert_close(sigreg(*same), value, rtol=1e-12, atol=0)


def test_repeating_every_frame_doubles_it(embeddings: torch.Tensor, directions: torch.Tensor) -> None:
    twice = sigreg(embeddings.repeat(2, 1), directions)
    torch.testing.assert_close(twice, 2 * sigreg(embeddings, directions), rtol=1e-12, atol=0)


def test_it_is_float32_under_autocast(embeddings: torch.Tensor, directions: torch.Tensor) -> None:
    low = embeddings.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sigreg(low, directions)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, sigreg(low.float(), directions))


def test_directions_have_length_one_and_follow_the_generator() -> None:
    drawn = random_directions(6, 4000, torch.Generator().manual_seed(6))
    assert drawn.shape == (6, 4000)
    torch.testing.assert_close(drawn.norm(dim=0), torch.ones(4000))
    # Even over the sphere: mean 0, covariance I / D.
    torch.testing.assert_close(drawn.mean(dim=1), torch.zeros(6), atol=0.02, rtol=0)
    torch.testing.assert_close(drawn @ drawn.T / 4000, torch.eye(6) / 6, atol=0.02, rtol=0)
    assert torch.equal(drawn, random_directions(6, 4000, torch.Generator().manual_seed(6)))
    assert not torch.equal(drawn, random_directions(6, 4000, torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("shape", [(4,), (4, 3, 2), (0, 3)])
def test_what_is_no_matrix_of_embeddings_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="embeddings must be"):
        sigreg(torch.ones(shape), torch.ones(3, 2))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 0)])
def test_directions_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"directions must be \[3, M\]"):
        sigreg(torch.ones(4, 3), torch.ones(shape))


@pytest.mark.parametrize(("features", "count"), [(0, 3), (3, 0)])
def test_no_direction_is_refused(features: int, count: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        random_directions(features, count, torch.Generator())
