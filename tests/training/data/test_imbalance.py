"""Subsets with an exact share of defects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.shared_data import shared_data

from serving.errors import ConfigError, DataError
from training.data.imbalance import defects_needed, draw_subset
from training.data.sewer_ml import read_annotations

PROPORTIONS = (0.01, 0.02, 0.05, 0.15)


def make_labels(normal: int, defect: int, unlabelled: int = 0, seed: int = 0) -> NDArray[np.int8]:
    labels = np.repeat(np.array([0, 1, -1], np.int8), [normal, defect, unlabelled])
    return np.random.default_rng(seed).permutation(labels)


@pytest.mark.parametrize(("proportion", "published"), [(0.01, 5_584), (0.02, 11_282), (0.05, 29_096), (0.15, 97_556)])
def test_published_counts_of_sewer_ml(proportion: float, published: int) -> None:
    assert defects_needed(552_820, proportion) == published
    # The rounding is to the nearest frame: one more or one fewer is further from the proportion.
    shares = [abs(n / (552_820 + n) - proportion) for n in (published - 1, published, published + 1)]
    assert shares[1] == min(shares)


def test_keeps_all_normals_and_records_counts() -> None:
    labels = make_labels(1900, 800, unlabelled=30)
    subset = draw_subset(labels, defect_proportion=0.05, seed=1)
    drawn = labels[subset.indices]
    assert (np.count_nonzero(drawn == 0), np.count_nonzero(drawn == 1), np.count_nonzero(drawn < 0)) == (1900, 100, 0)
    assert (np.diff(subset.indices) > 0).all()
    record = subset.record()
    assert (record["n_normal"], record["n_defect"], record["drawn_proportion"]) == (1900, 100, 0.05)
    assert record["left_out"] == {"defect": 700, "normal": 0, "unlabelled": 30}


def test_draws_are_nested_and_depend_on_the_seed_alone() -> None:
    labels = make_labels(2000, 900)
    drawn = [set(draw_subset(labels, defect_proportion=p, seed=4).indices.tolist()) for p in PROPORTIONS]
    assert drawn[0] < drawn[1] < drawn[2] < drawn[3]
    again = draw_subset(labels, defect_proportion=0.15, seed=4)
    other = draw_subset(labels, defect_proportion=0.15, seed=5)
    assert set(again.indices.tolist()) == drawn[3]
    assert again.record()["digest"] != other.record()["digest"]
    smaller = draw_subset(labels, defect_proportion=0.15, seed=4, frames=1000)
    assert (smaller.n_defect, smaller.n_normal) == (150, 850)
    assert set(smaller.indices.tolist()) < drawn[3]


def test_too_few_defects_shrink_the_normals() -> None:
    subset = draw_subset(make_labels(1000, 30), defect_proportion=0.15, seed=0)
    assert (subset.n_defect, subset.n_normal, subset.left_out_normal) == (30, 170, 830)


@given(st.integers(200, 5000), st.integers(200, 5000), st.floats(0.01, 0.6))
def test_proportion_is_as_near_as_whole_frames_allow(normal: int, defect: int, proportion: float) -> None:
    subset = draw_subset(make_labels(normal, defect), defect_proportion=proportion, seed=0)
    assert subset.n_normal == normal or subset.n_defect == defect
    assert abs(subset.n_defect / (subset.n_defect + subset.n_normal) - proportion) <= 0.5 / subset.n_defect


@pytest.mark.parametrize("proportion", [0.0, 1.0, -0.1, float("nan"), float("inf")])
def test_refuses_impossible_proportions(proportion: float) -> None:
    with pytest.raises(ConfigError, match="must lie between 0 and 1"):
        draw_subset(make_labels(10, 10), defect_proportion=proportion, seed=0)


def test_refuses_what_the_split_cannot_give() -> None:
    with pytest.raises(DataError, match="50 defect and 50 normal frames are needed, and the split has 20 and 200"):
        draw_subset(make_labels(200, 20), defect_proportion=0.5, seed=0, frames=100)
    with pytest.raises(DataError, match="would take 0 defect and 20 normal frames"):
        draw_subset(make_labels(20, 20), defect_proportion=0.01, seed=0)


@pytest.mark.parametrize("proportion", PROPORTIONS)
def test_real_annotations(proportion: float) -> None:
    path = shared_data("sewer_ml_annotations/SewerML_Train.csv")
    labels = read_annotations(path).labels
    subset = draw_subset(labels, defect_proportion=proportion, seed=1)
    normals = int(np.count_nonzero(labels == 0))
    assert subset.n_normal == normals == 30_916
    assert subset.n_defect == int(labels[subset.indices].sum()) == round(proportion * normals / (1 - proportion))
    assert abs(subset.n_defect / len(subset.indices) - proportion) < 0.5 / len(subset.indices)
