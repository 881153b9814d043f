"""Inspections go whole to one side, both kinds to every part, and too few of them are an error that says how many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.errors import ConfigError, DataError
from training.retrain.split import CUT_OPTION, TEST, TRAIN, VAL, Split, SplitPlan, check_enough, split_frames

FREE = -1


def split(labels: list[int], inspections: list[int], plan: SplitPlan | None = None) -> Split:
    official = np.full(len(labels), FREE, np.int8)
    return split_frames(np.array(labels, np.int8), np.array(inspections, np.int32), official, plan or SplitPlan())


def parts_of(found: Split, inspections: NDArray[np.int32] | list[int]) -> dict[int, set[int]]:
    """The parts that each inspection's frames went to."""
    parts: dict[int, set[int]] = {}
    for inspection, part in zip(np.asarray(inspections).tolist(), found.parts.tolist(), strict=True):
        parts.setdefault(inspection, set()).add(part)
    return parts


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_inspection_is_shared_and_every_part_has_two_of_both_kinds(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(["mixed", "defect", "normal", "unlabelled"]), min_size=4, max_size=40))
    kinds += ["mixed"] * data.draw(st.integers(2, 6)) + ["defect"] * 4 + ["normal"] * 4
    labels, inspections = [], []
    shown = {"mixed": [0, 1, -1], "defect": [1, 1], "normal": [0], "unlabelled": [-1, -1]}
    for number, kind in enumerate(kinds):
        labels += shown[kind]
        inspections += [number] * len(shown[kind])
    found = split(labels, inspections, SplitPlan(seed=data.draw(st.integers(0, 5))))
    parts = parts_of(found, inspections)
    assert all(len(part) == 1 for part in parts.values())
    for part in (TRAIN, VAL, TEST):
        for label in (0, 1):
            with_label = {
                i for i, value, p in zip(inspections, labels, found.parts, strict=True) if value == label and p == part
            }
            assert len(with_label) >= 2
    assert all(parts[number] == {TRAIN} for number, kind in enumerate(kinds) if kind == "unlabelled")


def test_shares_hold_for_inspections_with_and_without_defects() -> None:
    labels = [1, 0] * 100 + [0] * 100
    inspections = [i // 2 for i in range(200)] + list(range(100, 200))
    found = split(labels, inspections, SplitPlan(shares=(0.6, 0.15, 0.25)))
    counts = found.counts(np.array(labels, np.int8))
    assert [counts[name]["defect"] for name in ("train", "val", "test")] == [60, 15, 25]
    assert [counts[name]["labelled inspections"] for name in ("train", "val", "test")] == [120, 30, 50]


def test_the_seed_decides_and_nothing_else() -> None:
    labels, inspections = [0, 1] * 40, [i // 2 for i in range(80)]
    first, again, other = (split(labels, inspections, SplitPlan(seed=seed)).parts.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_official_test_frames_are_held_out_and_official_training_frames_are_not() -> None:
    labels = np.array([0, 1] * 30, np.int8)
    inspections = np.arange(60, dtype=np.int32)
    official = np.where(np.arange(60) < 40, 0, 1).astype(np.int8)
    found = split_frames(labels, inspections, official, SplitPlan())
    assert set(found.parts[:40].tolist()) == {TRAIN, VAL}
    assert set(found.parts[40:].tolist()) == {TEST}


def test_too_few_inspections_say_how_many_are_needed_and_the_way_out() -> None:
    labels, inspections = [0, 1] * 15, [i // 6 for i in range(30)]
    with pytest.raises(
        DataError, match=rf"at least 6 must have defect labels and 6 normal ones; there are 5 and 5.*{CUT_OPTION}"
    ):
        split(labels, inspections)
    with pytest.raises(DataError, match=r"no frame is labelled defect.*folder called defect/"):
        check_enough({"defect": 0, "normal": 12}, within=True)
    with pytest.raises(DataError, match="no frame is labelled normal"):
        check_enough({"defect": 12, "normal": 0}, within=False)
    check_enough({"defect": 1, "normal": 1}, within=True)


def test_cutting_inspections_keeps_consecutive_frames_together() -> None:
    labels = ([0] * 5 + [1] * 5) * 16
    inspections = [0] * 80 + [1] * 80
    found = split(labels, inspections, SplitPlan(within=True))
    assert len(np.unique(found.units)) == 16
    assert all(len(part) == 1 for part in parts_of(found, found.units).values())
    assert parts_of(found, inspections)[0] == {TRAIN, VAL, TEST}
    # Ten frames in a row make a piece of an inspection of 80.
    assert found.units[:10].tolist() == [0] * 10
    with pytest.raises(DataError, match="even with inspections cut into pieces, 1 pieces have defect labels"):
        split([1] + [0] * 79, [0] * 80, SplitPlan(within=True))


def test_shares_are_checked() -> None:
    with pytest.raises(ConfigError, match="add up to 1"):
        SplitPlan(shares=(0.5, 0.1, 0.1))
    with pytest.raises(ConfigError, match="positive"):
        SplitPlan(shares=(0.7, 0.3, 0.0))
