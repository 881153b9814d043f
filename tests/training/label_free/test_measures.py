"""All metrics together: names, values, repeatability, collapse, and which way each points."""

from __future__ import annotations

import math

import pytest
import torch
from support.embeddings import with_eigenvalues
from torch import Tensor

from serving.errors import DataError
from training.label_free import (
    EXPECTED_SIGN,
    alpha_req,
    as_quality,
    idest,
    lidar,
    measure_all,
    nesum,
    rankme,
    self_cluster,
    sigreg_statistic,
    stable_rank,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def embeddings() -> Tensor:
    return torch.randn(120, 24, generator=generator(1)) * torch.arange(1.0, 25.0) ** -0.5 + 0.2


@pytest.fixture
def views() -> Tensor:
    return torch.randn(40, 1, 24, generator=generator(2)) + 0.3 * torch.randn(40, 4, 24, generator=generator(3))


def test_each_metric_is_what_it_is_alone(embeddings: Tensor, views: Tensor) -> None:
    drawing = generator()
    expected = {
        "rankme": rankme(embeddings),
        "alpha_req": alpha_req(embeddings),
        "nesum": nesum(embeddings),
        "stable_rank": stable_rank(embeddings),
        "self_cluster": self_cluster(embeddings),
        "lidar": lidar(views),
        "idest": idest(embeddings, drawing),
        "sigreg": sigreg_statistic(embeddings, drawing),
    }
    measured = measure_all(embeddings, generator=generator(), views=views)
    assert measured == expected
    assert list(measured) == list(EXPECTED_SIGN)
    assert all(math.isfinite(value) for value in measured.values())


def test_lidar_needs_views(embeddings: Tensor) -> None:
    measured = measure_all(embeddings, generator=generator())
    assert list(measured) == [name for name in EXPECTED_SIGN if name != "lidar"]


def test_one_generator_state_gives_one_set_of_numbers(embeddings: Tensor) -> None:
    first, again, other = (measure_all(embeddings, generator=generator(seed)) for seed in (4, 4, 5))
    assert first == again
    assert [name for name in first if first[name] != other[name]] == ["idest", "sigreg"]


def test_embeddings_are_left_as_they_are(embeddings: Tensor, views: Tensor) -> None:
    kept, kept_views = embeddings.clone(), views.clone()
    measure_all(embeddings.requires_grad_(), generator=generator(), views=views)
    assert torch.equal(embeddings, kept)
    assert torch.equal(views, kept_views)
    assert embeddings.grad is None


def test_half_precision_is_measured_in_float64(embeddings: Tensor) -> None:
    low = embeddings.bfloat16()
    assert measure_all(low, generator=generator()) == measure_all(low.double(), generator=generator())


def test_collapse_is_found_not_refused() -> None:
    measured = measure_all(torch.full((80, 24), 0.1), generator=generator(), views=torch.full((8, 3, 24), 0.1))
    undefined = {name for name, value in measured.items() if math.isnan(value)}
    assert undefined == {"alpha_req", "nesum", "lidar", "idest", "sigreg"}
    assert measured["self_cluster"] == pytest.approx(1.0)
    assert measured["stable_rank"] == pytest.approx(1.0)
    assert measured["rankme"] == pytest.approx(1.0, abs=1e-3)


def test_whitened_embeddings_beat_collapsing_ones_by_every_metric_of_spread() -> None:
    whitened = with_eigenvalues([1.0] * 24, frames=200)
    collapsing = with_eigenvalues([4.0**-k for k in range(24)], frames=200)
    good, bad = (measure_all(z, generator=generator()) for z in (whitened, collapsing))
    for name in ("rankme", "nesum", "stable_rank", "self_cluster", "sigreg"):
        assert as_quality(name, good[name]) > as_quality(name, bad[name]), name


def test_quality_turns_values_so_that_higher_is_better() -> None:
    assert as_quality("rankme", 12.0) == 12.0
    assert as_quality("idest", 12.0) == -12.0
    assert as_quality("alpha_req", 1.0) == 0.0
    assert as_quality("alpha_req", 0.75) == as_quality("alpha_req", 1.25) == -0.25
    with pytest.raises(ValueError, match="'rank'; there are rankme"):
        as_quality("rank", 1.0)


def test_bad_input_is_refused(embeddings: Tensor, views: Tensor) -> None:
    views[5, 1, 3] = math.nan
    with pytest.raises(DataError, match="1 of 160 hold NaN or infinity"):
        measure_all(embeddings, generator=generator(), views=views)
    embeddings[5] = math.inf
    with pytest.raises(DataError, match="1 of 120 hold NaN or infinity"):
        measure_all(embeddings, generator=generator())


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        measure_all(torch.randn(20, 8, generator=generator()), generator=generator())
