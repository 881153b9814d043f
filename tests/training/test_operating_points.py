from __future__ import annotations

import numpy as np
import pytest

from training.calibration import Platt
from training.metrics import threshold_metrics
from training.operating_points import choose_thresholds

PLATT = Platt(slope=0.7, intercept=-0.4)


def test_points_are_the_best_of_all_thresholds() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(300) < 0.4).astype(int)
    logits = np.round(labels + rng.normal(size=300), 1)  # ties
    scores = PLATT.score(logits)
    chosen = choose_thresholds(labels, logits, PLATT)

    def at(threshold: float) -> dict[str, float]:
        return threshold_metrics(labels, scores, threshold=threshold)

    every = [at(threshold) for threshold in np.unique(scores)]
    best = max(m["recall"] + m["specificity"] for m in every)
    balanced = at(chosen["balanced"].value)
    assert balanced["recall"] + balanced["specificity"] == pytest.approx(best)
    for name, recall in (("recall_95", 0.95), ("recall_99", 0.99)):
        found = at(chosen[name].value)
        assert found["recall"] >= recall
        assert found["specificity"] == max(m["specificity"] for m in every if m["recall"] >= recall)
    few_alarms = at(chosen["specificity_95"].value)
    assert few_alarms["specificity"] >= 0.95
    assert few_alarms["recall"] == max(m["recall"] for m in every if m["specificity"] >= 0.95)


def test_a_normal_frame_on_top_leaves_the_highest_threshold() -> None:
    chosen = choose_thresholds(np.array([0, 1, 0]), np.array([0.0, 1.0, 2.0]), PLATT)
    assert chosen["specificity_95"].value == pytest.approx(float(PLATT.score(np.array([1.5]))[0]))


def test_exact_shares_are_reached() -> None:
    # 19 of 20 defects are 0.95 exactly: the lowest defect may be missed.
    logits = np.concatenate([np.arange(20.0), [-5.0, 0.5]])
    labels = np.array([1] * 20 + [0, 0])
    chosen = choose_thresholds(labels, logits, PLATT)
    assert threshold_metrics(labels, PLATT.score(logits), threshold=chosen["recall_95"].value)[
        "recall"
    ] == pytest.approx(0.95)
    # ... but not at 0.99, where the threshold lies half-way down to the next frame.
    assert chosen["recall_99"].value == pytest.approx(float(PLATT.score(np.array([-2.5]))[()][0]))


def test_thresholds_keep_clear_of_frames() -> None:
    logits = np.array([-2.0, -1.0, 1.0, 2.0])
    threshold = choose_thresholds(np.array([0, 0, 1, 1]), logits, PLATT)["balanced"].value
    assert threshold == pytest.approx(float(PLATT.score(np.zeros(1))[0]))
