"""RankMe and feature std on matrices whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch

from training.label_free import feature_std, is_collapsed, rankme


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


def test_rankme_is_not_centred_and_knows_neither_scale_nor_order() -> None:
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    assert rankme(features[torch.arange(39, -1, -1)] * 7.0) == pytest.approx(rankme(features), rel=1e-6)
    assert rankme(features + 50.0) < 1.5


def test_feature_std_of_evenly_spread_directions() -> None:
    axes = torch.cat((torch.eye(8), -torch.eye(8)))
    assert feature_std(5.0 * axes) == pytest.approx(1 / math.sqrt(8), rel=1e-6)


def test_feature_std_looks_at_directions_only() -> None:
    same_direction = torch.outer(torch.arange(1.0, 9.0), torch.tensor([3.0, 4.0]))
    assert feature_std(same_direction) == pytest.approx(0.0, abs=1e-7)


def test_constant_embeddings_are_collapsed_and_spread_ones_are_not() -> None:
    generator = torch.Generator().manual_seed(2)
    spread = torch.randn(200, 32, generator=generator)
    constant = torch.ones(200, 32) + 1e-4 * spread
    for features, collapsed in ((spread, False), (constant, True), (torch.ones(9, 32), True)):
        found = is_collapsed(rank=rankme(features), std=feature_std(features), feature_dim=32)
        assert found is collapsed


def test_an_untrained_resnet_is_not_called_collapsed() -> None:
    """Its embeddings lie close together (RankMe 15, std 0.010 on photographs), yet tell frames apart."""
    assert not is_collapsed(rank=15.4, std=0.010, feature_dim=512)


@pytest.mark.parametrize("shape", [(4,), (4, 3, 2)])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        rankme(torch.ones(shape))
    with pytest.raises(ValueError, match="must be"):
        feature_std(torch.ones(shape))


def test_one_embedding_has_no_deviation() -> None:
    with pytest.raises(ValueError, match="at least two"):
        feature_std(torch.ones(1, 4))
