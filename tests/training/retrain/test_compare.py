"""Paired differences: the values by hand, the interval on a planted difference, and the rule."""

from __future__ import annotations

import numpy as np
import pytest

from serving.errors import DataError
from training.metrics import Estimate, auroc
from training.retrain.compare import MARGIN, Measured, Side, compare, judge


def side(logits: list[float] | np.ndarray, threshold: float = 0.0) -> Side:
    values = np.asarray(logits, dtype=np.float64)
    return Side(logits=values, verdicts=values >= threshold)


def test_values_are_those_by_hand() -> None:
    labels = np.array([1, 1, 0, 0])
    default, new = side([1.0, -1.0, -2.0, 2.0]), side([3.0, 1.0, 0.5, -1.0])
    found = compare(labels, np.arange(4), default=default, new=new, rng=np.random.default_rng(0), replicates=200)
    # Default: pairs won 1 > -2, -1 > -2; lost 1 < 2, -1 < 2. New: all won. Verdicts: TFFT and TTTF.
    assert (found["auroc"].default.value, found["auroc"].new.value, found["auroc"].difference.value) == (0.5, 1.0, 0.5)
    assert (found["recall"].default.value, found["recall"].new.value) == (0.5, 1.0)
    assert (found["precision"].default.value, found["precision"].new.value) == (0.5, pytest.approx(2 / 3))
    assert (found["f1"].default.value, found["f1"].new.value) == (0.5, pytest.approx(0.8))
    assert (found["false_alarms"].default.value, found["false_alarms"].new.value) == (0.5, 0.5)
    assert found["false_alarms"].difference.value == 0.0


def planted(rng: np.random.Generator, *, gain: float, inspections: int = 40) -> tuple[np.ndarray, ...]:
    """Labels, inspections and two scores of frames whose inspections differ much in difficulty, alike for both."""
    each = 10
    numbers = np.repeat(np.arange(inspections), each)
    labels = np.tile([0, 1], inspections * each // 2)
    shift = rng.normal(0, 3.0, inspections)[numbers]
    noise = rng.normal(0, 1.0, len(labels))
    default = labels + shift + noise
    return labels, numbers, default, default + gain * labels


def test_a_planted_difference_is_found_though_the_separate_intervals_overlap() -> None:
    labels, numbers, default, new = planted(np.random.default_rng(1), gain=0.6)
    found = compare(labels, numbers, default=side(default), new=side(new), rng=np.random.default_rng(0))["auroc"]
    assert found.difference.value == pytest.approx(auroc(labels, new) - auroc(labels, default))
    assert found.default.high > found.new.low, "apart, they cannot be told from each other"
    assert 0 < found.difference.low < found.difference.value < found.difference.high
    assert judge(found) == "better"


def test_the_interval_covers_the_planted_difference_about_as_often_as_it_says() -> None:
    true = float(np.mean([_difference(seed) for seed in range(2000, 2040)]))
    covered = 0
    for seed in range(60):
        labels, numbers, default, new = planted(np.random.default_rng(seed), gain=0.6)
        rng = np.random.default_rng(seed)
        found = compare(labels, numbers, default=side(default), new=side(new), rng=rng, replicates=200)
        difference = found["auroc"].difference
        covered += difference.low <= true <= difference.high
    # Binomial(60, 0.95) is below 51 in one of 1000 draws; resampling 40 inspections comes close to it.
    assert covered >= 51


def _difference(seed: int) -> float:
    labels, _, default, new = planted(np.random.default_rng(seed), gain=0.6)
    return auroc(labels, new) - auroc(labels, default)


def test_the_same_pair_differs_by_exactly_nothing_and_is_not_worse() -> None:
    rng = np.random.default_rng(2)
    labels = np.tile([0, 1], 60)
    scores = side(labels + rng.normal(0, 1, 120))
    found = compare(labels, np.repeat(np.arange(20), 6), default=scores, new=scores, rng=rng)
    for measured in found.values():
        assert (measured.difference.low, measured.difference.value, measured.difference.high) == (0, 0, 0)
    assert judge(found["auroc"]) == "not worse"


def test_replicates_of_one_class_are_left_out() -> None:
    labels = np.array([1, 1, 0, 0])
    found = compare(
        labels,
        np.array([0, 0, 1, 1]),
        default=side([1, 1, 0, 0], 0.5),
        new=side([1, 1, 0, 0], 0.5),
        rng=np.random.default_rng(0),
    )
    # Two inspections, one of each class: half the draws lack one, and all others are perfect.
    assert all(measured.new.low == measured.new.high for measured in found.values())
    one = side([1.0])
    with pytest.raises(DataError, match="some of both"):
        compare(np.array([1]), np.array([0]), default=one, new=one, rng=np.random.default_rng(0))


def measured(low: float, high: float, *, new_low: float = 0.7) -> Measured:
    return Measured(
        default=Estimate(value=0.8, low=0.7, high=0.9),
        new=Estimate(value=0.8, low=new_low, high=0.9),
        difference=Estimate(value=(low + high) / 2, low=low, high=high),
    )


def test_the_rule() -> None:
    assert judge(measured(0.01, 0.1)) == "better"
    assert judge(measured(-MARGIN, 0.1)) == "not worse"
    assert judge(measured(-MARGIN - 0.001, 0.1)) == "unclear"
    assert judge(measured(-0.1, -0.001)) == "worse"
    assert judge(measured(0.01, 0.1, new_low=0.5)) == "knows nothing"
    assert judge(measured(float("nan"), float("nan"))) == "unclear"
    assert judge(measured(0.1, 0.2, new_low=float("nan"))) == "knows nothing"
