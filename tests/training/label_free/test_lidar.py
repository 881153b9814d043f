"""LiDAR on views whose covariances are known, and against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.embeddings import rotation
from torch import Tensor

from serving.errors import DataError
from training.label_free import lidar

DELTA, EPSILON = 1e-4, 1e-7


def on_axes(between: list[float], within: list[float]) -> Tensor:
    """Frames at +-b_k e_k, views of each at +-w_k e_k from it: S_b = diag(b_k^2 / D), S_w = diag(w_k^2 / D)."""
    axes = (torch.diag(torch.tensor(lengths, dtype=torch.float64)) for lengths in (between, within))
    frames, views = (torch.cat((axis, -axis)) for axis in axes)
    return frames[:, None] + views[None]


def entropy_rank(eigenvalues: list[float]) -> float:
    shares = [value / sum(eigenvalues) + EPSILON for value in eigenvalues]
    return math.exp(-sum(p * math.log(p) for p in shares))


@pytest.fixture
def views() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(30, 1, 8, generator=generator, dtype=torch.float64)
    return frames + 0.5 * torch.randn(30, 6, 8, generator=generator, dtype=torch.float64) + 2.0


@pytest.mark.parametrize(
    ("between", "within"),
    [
        ([2.0, 2.0, 2.0], [1.0, 1.0, 1.0]),
        ([4.0, 2.0, 1.0], [1.0, 1.0, 1.0]),
        ([2.0, 2.0, 2.0], [1.0, 3.0, 9.0]),
        ([4.0, 2.0, 1.0], [4.0, 2.0, 1.0]),
        ([3.0, 1.0, 0.0], [0.5, 0.5, 2.0]),
        ([3.0, 1.0, 1.0], [0.0, 0.1, 0.1]),
    ],
)
def test_axes_in_closed_form(between: list[float], within: list[float]) -> None:
    expected = entropy_rank([b * b / 3 / (w * w / 3 + DELTA) for b, w in zip(between, within, strict=True)])
    assert lidar(on_axes(between, within)) == pytest.approx(expected, rel=1e-9)


def test_directions_that_only_tell_views_apart_do_not_count() -> None:
    """What RankMe takes for rank: five of eight directions vary among the views of a frame alone."""
    assert lidar(on_axes([1.0] * 3 + [0.0] * 5, [0.1] * 3 + [5.0] * 5)) == pytest.approx(3.0, rel=1e-4)


def test_it_is_the_definition(views: Tensor) -> None:
    z = views.numpy()
    n, v, d = z.shape
    means = z.mean(axis=1)
    between, within = np.zeros((d, d)), DELTA * np.eye(d)
    for i in range(n):
        between += np.outer(means[i] - means.mean(axis=0), means[i] - means.mean(axis=0)) / n
        for j in range(v):
            within += np.outer(z[i, j] - means[i], z[i, j] - means[i]) / (n * v)
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ between @ root)
    assert lidar(views) == pytest.approx(entropy_rank([float(value) for value in eigenvalues]), rel=1e-9)


def test_frames_bound_it() -> None:
    generator = torch.Generator().manual_seed(1)
    views = torch.randn(5, 1, 32, generator=generator) + 0.1 * torch.randn(5, 20, 32, generator=generator)
    assert lidar(views) <= 4.001


def test_shift_rotation_and_orders_do_not_matter(views: Tensor) -> None:
    value = lidar(views)
    for same in (views + 7.0, views @ rotation(8), views.flip(0), views.flip(1)):
        assert lidar(same) == pytest.approx(value, rel=1e-9)


def test_scale_matters_through_delta_alone(views: Tensor) -> None:
    assert lidar(10.0 * views) == pytest.approx(lidar(views), rel=1e-3)
    assert lidar(on_axes([1.0, 1.0], [1.0, 3.0])) < 1.9
    assert lidar(1e-4 * on_axes([1.0, 1.0], [1.0, 3.0])) == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_frames_of_one_mean_have_no_lidar(value: float) -> None:
    same = (on_axes([0.0, 0.0], [1.0, 1.0]) + value).float()
    assert math.isnan(lidar(same))


@pytest.mark.parametrize("shape", [(4, 3), (1, 3, 2), (4, 1, 2), (4, 3, 0)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"views must be \[N, V, D\]"):
        lidar(torch.ones(shape))


def test_bad_views_are_refused(views: Tensor) -> None:
    views[3, 2, 1] = math.nan
    with pytest.raises(DataError, match="1 of 180 hold NaN"):
        lidar(views)
    with pytest.raises(DataError, match="are zero"):
        lidar(torch.zeros(4, 3, 2))
