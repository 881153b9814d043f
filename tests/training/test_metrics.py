from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from serving.errors import DataError
from training.data.classes import CIW, CLASS_CODES
from training.metrics import (
    auroc,
    average_precision,
    evaluate,
    f2_ciw_binary,
    f_beta,
    group_ids,
    threshold_metrics,
)


def draw(seed: int, n: int = 400, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores that overlap; `levels` rounds the scores so that many tie."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(np.int8)
    scores = 1 / (1 + np.exp(-(labels * 1.5 + rng.normal(size=n))))
    return labels, np.round(scores * levels) / levels if levels else scores


@pytest.mark.parametrize("levels", [None, 7])
def test_ranking_metrics_equal_scikit_learn(levels: int | None) -> None:
    for seed in range(5):
        labels, scores = draw(seed, levels=levels)
        assert auroc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
        expected = sk.average_precision_score(labels, scores)
        assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)


def test_threshold_metrics_equal_scikit_learn() -> None:
    labels, scores = draw(3)
    found = threshold_metrics(labels, scores, threshold=0.6)
    verdicts = scores >= 0.6
    assert found["f1"] == pytest.approx(sk.f1_score(labels, verdicts))
    assert found["f2"] == pytest.approx(sk.fbeta_score(labels, verdicts, beta=2))
    assert found["f1_normal"] == pytest.approx(sk.f1_score(labels, verdicts, pos_label=0))
    assert found["precision"] == pytest.approx(sk.precision_score(labels, verdicts))
    assert found["specificity"] == pytest.approx(sk.recall_score(labels, verdicts, pos_label=0))
    assert "f2_ciw_binary" not in found


def test_threshold_itself_is_a_defect() -> None:
    labels, scores = np.array([1, 0]), np.array([0.5, 0.4])
    assert threshold_metrics(labels, scores, threshold=0.5)["recall"] == 1.0


def test_nothing_in_the_denominator_counts_as_zero() -> None:
    labels = np.array([1, 0])
    none_found = threshold_metrics(labels, np.array([0.1, 0.2]), threshold=0.9)
    assert none_found["precision"] == none_found["recall"] == none_found["f1"] == none_found["f2"] == 0
    assert f_beta(0.0, 0.0, 2) == 0


def test_ciw_variant_by_hand() -> None:
    # Four defects: RB, RB, RO, RB+RO; judged defect: the first, the third and a normal frame.
    classes = np.zeros((5, len(CLASS_CODES)), dtype=np.uint8)
    rb, ro = CLASS_CODES.index("RB"), CLASS_CODES.index("RO")
    classes[[0, 1, 3], rb] = 1
    classes[[2, 3], ro] = 1
    labels = np.array([1, 1, 1, 1, 0])
    verdicts = np.array([True, False, True, False, True])
    precision = 2 / 3
    f2_rb = 5 * precision * (1 / 3) / (4 * precision + 1 / 3)
    f2_ro = 5 * precision * (1 / 2) / (4 * precision + 1 / 2)
    expected = (CIW["RB"] * f2_rb + CIW["RO"] * f2_ro) / (CIW["RB"] + CIW["RO"])
    assert f2_ciw_binary(labels, verdicts, classes) == pytest.approx(expected, abs=1e-12)
    scores = verdicts.astype(float)
    found = threshold_metrics(labels, scores, threshold=0.5, classes=classes)
    assert found["f2_ciw_binary"] == pytest.approx(expected, abs=1e-12)


def test_one_class_only_is_refused() -> None:
    with pytest.raises(DataError, match="3 defect and 0 normal"):
        auroc(np.ones(3, dtype=int), np.arange(3.0))
    with pytest.raises(DataError, match="unlabelled"):
        auroc(np.array([1, 0, -1]), np.arange(3.0))


def test_group_ids_give_unknown_inspections_groups_of_their_own() -> None:
    assert group_ids(np.array([7, -1, 7, -1, 2]), 5).tolist() == [1, 2, 1, 3, 0]
    assert group_ids(None, 3).tolist() == [0, 1, 2]


def test_intervals_are_seeded_and_hold_the_value() -> None:
    labels, scores = draw(1)
    first = evaluate(labels, scores, thresholds={"t": 0.6}, rng=np.random.default_rng(5), replicates=200)
    again = evaluate(labels, scores, thresholds={"t": 0.6}, rng=np.random.default_rng(5), replicates=200)
    assert first == again
    assert set(first) >= {"auroc", "average_precision", "f1@t", "f2@t", "f1_normal@t"}
    for estimate in first.values():
        assert estimate.low < estimate.value < estimate.high
    assert first["auroc"].value == pytest.approx(auroc(labels, scores))


def test_interval_covers_as_often_as_it_says() -> None:
    """The AUROC of unit-variance normals one deviation apart is Phi(1 / sqrt 2) = 0.7602."""
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = np.repeat([0, 1], 100)
        scores = labels + rng.normal(size=200)
        estimate = evaluate(labels, scores, thresholds={}, rng=rng, replicates=200)["auroc"]
        covered += estimate.low <= 0.7602 <= estimate.high
    assert covered >= 50


def test_repeating_frames_within_inspections_does_not_narrow_the_interval() -> None:
    labels, scores = draw(2, n=120)
    copies = 20
    repeated = [np.repeat(values, copies) for values in (labels, scores, np.arange(120))]

    def width(labels: np.ndarray, scores: np.ndarray, inspections: np.ndarray | None) -> float:
        rng = np.random.default_rng(0)
        estimate = evaluate(labels, scores, thresholds={}, rng=rng, inspections=inspections, replicates=300)
        return estimate["auroc"].high - estimate["auroc"].low

    single = width(labels, scores, None)
    assert width(*repeated) == pytest.approx(single, rel=1e-9)
    assert width(repeated[0], repeated[1], None) < single / 2
