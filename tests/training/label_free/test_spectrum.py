"""RankMe, stable rank, NESum and alpha-ReQ on spectra whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.embeddings import rotation, with_eigenvalues
from torch import Tensor

from serving.errors import DataError
from training.label_free import alpha_req, nesum, rankme, stable_rank

METRICS = [rankme, stable_rank, nesum, alpha_req]
Metric = Callable[[Tensor], float]


@pytest.fixture
def features() -> Tensor:
    return torch.randn(60, 20, generator=torch.Generator().manual_seed(1)) + 0.3


def test_rankme_counts_equal_singular_values() -> None:
    orthogonal, _ = torch.linalg.qr(torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).double())
    assert rankme(3.0 * orthogonal) == pytest.approx(10.0, rel=1e-5)


def test_rankme_of_two_unequal_directions() -> None:
    features = torch.zeros(4, 3)
    features[0, 0], features[1, 1] = 3.0, 1.0
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert rankme(features) == pytest.approx(math.exp(entropy), rel=1e-4)


def test_epsilon_is_added_to_every_share() -> None:
    """Rank one in D dimensions: D - 1 shares of 1e-7 are left, as in the paper's equation."""
    features = torch.outer(torch.arange(1.0, 601.0), torch.ones(512))
    p, epsilon = 1 + 1e-7, 1e-7
    assert rankme(features) == pytest.approx(math.exp(-p * math.log(p) - 511 * epsilon * math.log(epsilon)), rel=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_equal_eigenvalues_of_rank_k_count_k(rank: int) -> None:
    features = with_eigenvalues([7.0] * rank + [0.0] * (12 - rank), frames=40)
    assert nesum(features) == pytest.approx(rank, rel=1e-9)
    assert stable_rank(features) == pytest.approx(rank, rel=1e-9)
    assert rankme(features) == pytest.approx(rank, rel=1e-4)


def test_unequal_eigenvalues_by_hand() -> None:
    """Eigenvalues 16, 4, 4: their sum is 1.5 times the largest; singular values 4, 2, 2 have shares 1/2, 1/4, 1/4."""
    features = with_eigenvalues([16.0, 4.0, 4.0], frames=30)
    assert nesum(features) == pytest.approx(1.5, rel=1e-9)
    assert stable_rank(features) == pytest.approx(1.5, rel=1e-9)
    assert rankme(features) == pytest.approx(2**1.5, rel=1e-5)


def test_the_mean_counts_for_rankme_and_stable_rank_only() -> None:
    features = with_eigenvalues([1.0] * 6, frames=50)
    shifted = features + 100.0
    assert nesum(shifted) == pytest.approx(6.0, rel=1e-8)
    # One direction of squared length 6 * 100^2 + 1, five of 1.
    assert stable_rank(shifted) == pytest.approx((6e4 + 6) / (6e4 + 1), rel=1e-9)
    assert rankme(shifted) < 1.2


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("count", [15, 60, 130])
def test_alpha_of_a_power_law_is_its_exponent(alpha: float, count: int) -> None:
    eigenvalues = torch.arange(1.0, count + 1.0, dtype=torch.float64) ** -alpha
    assert alpha_req(5.0 * with_eigenvalues(eigenvalues, frames=200) + 3.0) == pytest.approx(alpha, abs=1e-6)


def test_alpha_looks_at_eigenvalues_11_to_100() -> None:
    index = torch.arange(1.0, 131.0, dtype=torch.float64)
    eigenvalues = index**-1.0
    eigenvalues[:10] = 50.0
    eigenvalues[100:] = 1e-6
    assert alpha_req(with_eigenvalues(eigenvalues, frames=200)) == pytest.approx(1.0, abs=1e-6)


def test_alpha_is_the_weighted_fit_that_numpy_gives() -> None:
    eigenvalues = torch.rand(80, generator=torch.Generator().manual_seed(2), dtype=torch.float64).sort(descending=True)[
        0
    ]
    features = with_eigenvalues(eigenvalues, frames=120)
    index = np.arange(11.0, 81.0)
    spectrum = np.sort(np.linalg.eigvalsh(np.cov(features.numpy().T, bias=True)))[::-1][10:80]
    # numpy's weights multiply residuals, so that their squares are the weights of the squares.
    slope = np.polyfit(np.log(index), np.log(spectrum), 1, w=index**-0.5)[0]
    assert alpha_req(features) == pytest.approx(-slope, rel=1e-8)


def test_alpha_stops_where_float32_rounding_begins() -> None:
    """A rank of 40 stored in float32 far from the origin: what follows is rounding, not spectrum."""
    eigenvalues = torch.arange(1.0, 41.0, dtype=torch.float64) ** -1.0
    features = with_eigenvalues(torch.cat((eigenvalues, torch.zeros(60, dtype=torch.float64))), frames=300) + 2.0
    assert alpha_req(features.float()) == pytest.approx(1.0, abs=1e-4)


def test_too_low_a_rank_has_no_alpha() -> None:
    assert math.isnan(alpha_req(with_eigenvalues([1.0] * 14 + [0.0] * 20, frames=60)))
    assert not math.isnan(alpha_req(with_eigenvalues([1.0] * 15 + [0.0] * 20, frames=60)))


@pytest.mark.parametrize("value", [1.0, 0.1, -1e4])
def test_coinciding_embeddings_have_no_nesum_and_no_alpha(value: float) -> None:
    same = torch.full((90, 30), value)
    assert math.isnan(nesum(same))
    assert math.isnan(alpha_req(same))
    assert stable_rank(same) == pytest.approx(1.0)
    assert rankme(same) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_scale_rotation_and_order_do_not_matter(metric: Metric, features: Tensor) -> None:
    value = metric(features)
    for same in (7.0 * features, features.double() @ rotation(20), features.flip(0), -features):
        assert metric(same) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_repeating_every_frame_changes_nothing(metric: Metric, features: Tensor) -> None:
    assert metric(features.repeat(3, 1)) == pytest.approx(metric(features), rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(4,), (4, 3, 2), (0, 3), (3, 0)])
def test_what_is_no_matrix_is_refused(metric: Metric, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        metric(torch.ones(shape))


@pytest.mark.parametrize("metric", METRICS)
def test_bad_embeddings_are_refused(metric: Metric) -> None:
    broken = torch.ones(30, 20)
    broken[3, 4], broken[5, 6] = math.nan, math.inf
    with pytest.raises(DataError, match="2 of 30 hold NaN or infinity"):
        metric(broken)
    with pytest.raises(DataError, match="all 30 are zero"):
        metric(torch.zeros(30, 20))
    with pytest.raises(ValueError, match="at least two"):
        metric(torch.ones(1, 20))
