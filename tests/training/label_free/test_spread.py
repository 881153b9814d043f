"""Standard deviation of directions, SelfCluster and SIGReg's statistic on embeddings whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.embeddings import rotation
from torch import Tensor

from serving.errors import DataError
from training.label_free import feature_std, is_collapsed, rankme, self_cluster, sigreg_statistic
from training.sigreg import random_directions, sigreg


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def features() -> Tensor:
    return torch.randn(40, 6, generator=generator(1), dtype=torch.float64) + 0.3


def test_feature_std_of_evenly_spread_directions() -> None:
    axes = torch.cat((torch.eye(8), -torch.eye(8)))
    assert feature_std(5.0 * axes) == pytest.approx(1 / math.sqrt(8), rel=1e-6)


def test_feature_std_looks_at_directions_only() -> None:
    same_direction = torch.outer(torch.arange(1.0, 9.0), torch.tensor([3.0, 4.0]))
    assert feature_std(same_direction) == pytest.approx(0.0, abs=1e-7)


def test_constant_embeddings_are_collapsed_and_spread_ones_are_not() -> None:
    spread = torch.randn(200, 32, generator=generator(2))
    constant = torch.ones(200, 32) + 1e-4 * spread
    for features, collapsed in ((spread, False), (constant, True), (torch.ones(9, 32), True)):
        found = is_collapsed(rank=rankme(features), std=feature_std(features), feature_dim=32)
        assert found is collapsed


def test_an_untrained_resnet_is_not_called_collapsed() -> None:
    """Its embeddings lie close together (RankMe 15, std 0.010 on photographs), yet tell frames apart."""
    assert not is_collapsed(rank=15.4, std=0.010, feature_dim=512)


def test_self_cluster_of_one_line_is_one() -> None:
    """Opposite embeddings lie on one line too: cosines are squared."""
    line = torch.outer(torch.tensor([1.0, 5.0, -2.0, 0.1, -7.0]), torch.tensor([3.0, 4.0, -1.0]))
    assert self_cluster(line) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize(("frames", "features"), [(16, 8), (8, 8), (5, 8)])
def test_self_cluster_is_least_for_axes(frames: int, features: int) -> None:
    """Axes and their opposites (a tight frame), all axes, some of them: -1 / (max(N, D) - 1)."""
    axes = torch.cat((torch.eye(features), -torch.eye(features)))[:frames]
    assert self_cluster(2.0 * axes) == pytest.approx(-1 / (max(frames, features) - 1), rel=1e-9)


def test_self_cluster_of_a_simplex() -> None:
    """Five corners with cosine -1/4 among each other in four dimensions: Q = 5 + 20/16, E = 5 + 20/4."""
    corners = torch.eye(5, dtype=torch.float64) - 0.2
    plane = torch.linalg.qr(corners[:, :4])[0]
    assert self_cluster(corners @ plane) == pytest.approx((6.25 - 10) / (25 - 10), rel=1e-9)


def test_self_cluster_of_equal_clusters_on_axes() -> None:
    """D clusters of n embeddings each, on the axes: Q = D n^2, so (n - E/N) / (N - E/N) with N = D n."""
    d, n = 4, 6
    expected_by_chance = d * n + d * n * (d * n - 1) / d
    value = (d * n * n - expected_by_chance) / ((d * n) ** 2 - expected_by_chance)
    assert self_cluster(torch.eye(d).repeat(n, 1)) == pytest.approx(value, rel=1e-9)


def test_self_cluster_of_random_directions_is_about_zero() -> None:
    assert self_cluster(torch.randn(2000, 16, generator=generator(3))) == pytest.approx(0.0, abs=2e-3)


def test_self_cluster_is_the_sum_over_pairs(features: Tensor) -> None:
    z = features.numpy()
    n, d = z.shape
    cosines = [[a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a in z] for b in z]
    chance = n + n * (n - 1) / d
    assert self_cluster(features) == pytest.approx((np.square(cosines).sum() - chance) / (n * n - chance), rel=1e-10)


def test_self_cluster_knows_neither_length_nor_rotation_nor_order(features: Tensor) -> None:
    lengths = torch.arange(1.0, 41.0, dtype=torch.float64)[:, None]
    for same in (lengths * features, features @ rotation(6), features.flip(0)):
        assert self_cluster(same) == pytest.approx(self_cluster(features), rel=1e-10)


def test_an_embedding_without_direction_leaves_self_cluster_undefined(features: Tensor) -> None:
    features[3] = 0.0
    assert math.isnan(self_cluster(features))


def test_self_cluster_needs_two_features() -> None:
    with pytest.raises(ValueError, match="two features"):
        self_cluster(torch.ones(4, 1))


def test_sigreg_statistic_is_that_of_standardised_embeddings(features: Tensor) -> None:
    standardised = (features - features.mean(dim=0)) / features.var(dim=0, correction=0).mean().sqrt()
    expected = float(sigreg(standardised, random_directions(6, 256, generator(4))))
    assert sigreg_statistic(features, generator(4)) == pytest.approx(expected, rel=1e-12)
    assert sigreg_statistic(features, generator(5)) != pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("frames", [200, 2000])
def test_sigreg_statistic_of_isotropic_gaussian_embeddings(frames: int) -> None:
    """With the mean fitted, the expectation is the integral of 1 - (1 + t^2) exp(-t^2) under the window."""
    normal = 3.0 + 0.01 * torch.randn(frames, 128, generator=generator(6))
    expected = math.sqrt(2 * math.pi) * (1 - 4 / (3 * math.sqrt(3)))
    assert sigreg_statistic(normal, generator(7)) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("shape", ["anisotropic", "clustered", "low rank"])
def test_other_shapes_have_a_higher_sigreg_statistic(shape: str) -> None:
    normal = torch.randn(500, 8, generator=generator(8))
    embeddings = {
        "anisotropic": normal * torch.tensor([4.0, 1, 1, 1, 1, 1, 1, 1]),
        "clustered": 0.1 * normal + torch.eye(8).repeat(63, 1)[:500],
        "low rank": normal[:, :2] @ torch.randn(2, 8, generator=generator(9)),
    }[shape]
    assert sigreg_statistic(embeddings, generator()) > 3 * sigreg_statistic(normal, generator())


def test_sigreg_statistic_knows_neither_scale_nor_shift_nor_order(features: Tensor) -> None:
    value = sigreg_statistic(features, generator())
    for same in (1e3 * features, features - 20.0, features.flip(0)):
        assert sigreg_statistic(same, generator()) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("value", [1.0, 0.1])
def test_coinciding_embeddings_have_no_sigreg_statistic(value: float) -> None:
    assert math.isnan(sigreg_statistic(torch.full((9, 4), value), generator()))


def test_bad_embeddings_are_refused() -> None:
    broken = torch.ones(30, 20)
    broken[3, 4] = math.nan
    for metric in (feature_std, self_cluster, lambda z: sigreg_statistic(z, generator())):
        with pytest.raises(DataError, match="1 of 30 hold NaN or infinity"):
            metric(broken)
        with pytest.raises(DataError, match="all 30 are zero"):
            metric(torch.zeros(30, 20))
        with pytest.raises(ValueError, match="at least two"):
            metric(torch.ones(1, 20))
        for shape in ((4,), (4, 3, 2)):
            with pytest.raises(ValueError, match="must be"):
                metric(torch.ones(shape))
