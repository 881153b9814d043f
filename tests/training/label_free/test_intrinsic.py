"""IdEst on manifolds of known dimension; minimum spanning trees by hand and against SciPy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform
from support.embeddings import rotation
from torch import Tensor

from serving.errors import DataError
from training.label_free import idest
from training.label_free.intrinsic import tree_length


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cube(frames: int, dimensions: int, ambient: int) -> Tensor:
    """Points drawn evenly from a cube, in a rotated linear subspace away from the origin."""
    points = torch.rand(frames, dimensions, generator=generator(1), dtype=torch.float64)
    return points @ rotation(ambient)[:dimensions] + 3.0


def test_tree_of_a_rectangle_by_hand() -> None:
    """Corners of 3 x 4 and the middle of a long side: 3 + 2 + 2 + 3, or any as short."""
    corners = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 3.0], [0.0, 3.0], [2.0, 0.0]])
    assert tree_length(squareform(pdist(corners)), np.arange(5)) == pytest.approx(10.0)
    assert tree_length(squareform(pdist(corners)), np.array([2, 0, 3])) == pytest.approx(7.0)
    assert tree_length(squareform(pdist(corners)), np.array([2])) == 0.0


def test_tree_is_as_long_as_scipys() -> None:
    rng = np.random.default_rng(0)
    distances = squareform(pdist(rng.normal(size=(80, 6))))
    for subset in (np.arange(80), rng.permutation(80)[:33]):
        expected = minimum_spanning_tree(distances[np.ix_(subset, subset)]).sum()
        assert tree_length(distances, subset) == pytest.approx(expected, rel=1e-12)


def test_tree_spans_duplicates_and_leaves_its_arguments_alone() -> None:
    points = np.random.default_rng(1).normal(size=(20, 3))
    distances = squareform(pdist(np.concatenate((points, points))))
    kept, everything = distances.copy(), np.arange(40)
    once, twice = tree_length(distances, np.arange(20)), tree_length(distances, everything)
    assert twice == pytest.approx(once, rel=1e-12)
    assert np.array_equal(distances, kept)
    assert np.array_equal(everything, np.arange(40))


@pytest.mark.parametrize(("dimensions", "tolerance"), [(1, 0.05), (2, 0.1), (3, 0.1), (5, 0.15), (8, 0.2)])
def test_linear_subspaces_have_their_dimension(dimensions: int, tolerance: float) -> None:
    assert idest(cube(1500, dimensions, 24), generator()) == pytest.approx(dimensions, rel=tolerance)


def test_an_even_helix_has_dimension_one() -> None:
    """The paper's example (figure 2), on which nearest-neighbour estimators fail."""
    angle = torch.linspace(0, 6 * math.pi, 200, dtype=torch.float64)
    helix = torch.stack((angle.cos(), angle.sin(), 0.3 * angle), dim=1)
    assert idest(helix, generator()) == pytest.approx(1.0, abs=0.1)


def test_a_sphere_is_a_surface() -> None:
    sphere = torch.nn.functional.normalize(torch.randn(1500, 3, generator=generator(2)), dim=1)
    assert idest(sphere, generator()) == pytest.approx(2.0, rel=0.1)


def test_more_dimensions_measure_higher() -> None:
    found = [idest(cube(600, dimensions, 32), generator()) for dimensions in (2, 4, 8, 16, 32)]
    assert found == sorted(found)


def test_scale_shift_rotation_and_idle_features_do_not_matter() -> None:
    points = cube(300, 4, 6)
    value = idest(points, generator())
    padded = torch.cat((points, torch.zeros(300, 10, dtype=torch.float64)), dim=1)
    for same in (1e3 * points, points - 5.0, points @ rotation(6, seed=3), padded):
        assert idest(same, generator()) == pytest.approx(value, rel=1e-9)


def test_the_generator_draws_the_subsets() -> None:
    points = cube(300, 4, 6)
    assert idest(points, generator(5)) == idest(points, generator(5))
    assert idest(points, generator(5)) != idest(points, generator(6))
    assert idest(points, generator(5)) == pytest.approx(idest(points, generator(6)), rel=0.2)


def test_only_so_many_frames_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more frames than the limit, a random part is taken, whatever their order."""
    line_then_cube = torch.cat((cube(400, 1, 8), cube(400, 8, 8) + 0.5))
    monkeypatch.setattr("training.label_free.intrinsic.IDEST_FRAMES", 400)
    limited = idest(line_then_cube, generator())
    assert 2.0 < limited < 8.0
    monkeypatch.setattr("training.label_free.intrinsic.IDEST_FRAMES", 800)
    assert limited != idest(line_then_cube, generator())


@pytest.mark.parametrize("value", [1.0, 0.1, -1e4])
def test_coinciding_embeddings_have_no_dimension(value: float) -> None:
    assert math.isnan(idest(torch.full((64, 8), value), generator()))


def test_what_float32_cannot_tell_apart_coincides() -> None:
    noise = torch.randn(64, 8, generator=generator(), dtype=torch.float64)
    assert math.isnan(idest(1 + 1e-9 * noise, generator()))
    assert not math.isnan(idest(1 + 1e-5 * noise, generator()))


def test_a_simplex_outgrows_every_dimension() -> None:
    """All distances are equal, so the tree's length is n - 1, which grows faster than n^((d - 1) / d) for any d."""
    assert math.isnan(idest(torch.eye(64), generator()))


def test_bad_embeddings_are_refused() -> None:
    broken = torch.ones(64, 8)
    broken[3, 4] = math.inf
    with pytest.raises(DataError, match="1 of 64 hold NaN or infinity"):
        idest(broken, generator())
    with pytest.raises(DataError, match="all 64 are zero"):
        idest(torch.zeros(64, 8), generator())
    with pytest.raises(ValueError, match="at least 32 embeddings, got 31"):
        idest(torch.ones(31, 8), generator())
    with pytest.raises(ValueError, match="must be"):
        idest(torch.ones(64), generator())
