from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from serving.errors import DataError
from training.data.classes import CIW, CLASS_CODES
from training.multilabel_metrics import ClassScores, official_intervals, official_scores

RB, RO, FS = (CLASS_CODES.index(code) for code in ("RB", "RO", "FS"))
TOTAL_CIW = sum(CIW.values())


def table(n: int, *marked: tuple[int, int]) -> np.ndarray:
    """uint8 [n, 17] with ones at the given frames and classes."""
    classes = np.zeros((n, len(CLASS_CODES)), np.uint8)
    for frame, column in marked:
        classes[frame, column] = 1
    return classes


def loop_reference(classes: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The definition, written with loops over frames and plain integers."""
    n, columns = classes.shape
    f1s, weighted = [], 0.0
    for c in range(columns + 1):
        found = judged = shown = 0
        for i in range(n):
            if c < columns:
                is_shown, is_judged = classes[i][c] == 1, scores[i][c] >= 0.5
            else:
                is_shown = not any(classes[i][k] == 1 for k in range(columns))
                is_judged = not any(scores[i][k] >= 0.5 for k in range(columns))
            found += bool(is_shown and is_judged)
            judged += bool(is_judged)
            shown += bool(is_shown)
        p = found / judged if judged else 0.0
        r = found / shown if shown else 0.0
        f1s.append(2 * p * r / (p + r) if p + r else 0.0)
        if c < columns:
            weighted += CIW[CLASS_CODES[c]] * (5 * p * r / (4 * p + r) if 4 * p + r else 0.0)
    return {"f2_ciw": weighted / TOTAL_CIW, "f1_normal": f1s[-1], "macro_f1": sum(f1s) / len(f1s)}


def test_by_hand() -> None:
    # Frames: RB, RB, RO, RB+RO, none, none. Judged: RB found once and once wrongly; RO found twice.
    classes = table(6, (0, RB), (1, RB), (2, RO), (3, RB), (3, RO))
    scores = np.full((6, 17), 0.1)
    scores[[0, 4], RB] = 0.9
    scores[[2, 3], RO] = 0.5
    found = official_scores(classes, scores)
    rb, ro = found.per_class["RB"], found.per_class["RO"]
    assert (rb.n, rb.precision, rb.recall) == (3, 1 / 2, pytest.approx(1 / 3))
    assert rb.f2 == pytest.approx(5 * (1 / 2) * (1 / 3) / (4 / 2 + 1 / 3))
    assert rb.f1 == pytest.approx(0.4)
    # Exactly 0.5 is a yes.
    assert (ro.n, ro.precision, ro.recall, ro.f2, ro.average_precision) == (2, 1, 1, 1, 1)
    assert found.f2_ciw == pytest.approx((CIW["RB"] * rb.f2 + CIW["RO"]) / TOTAL_CIW)
    assert found.f2_ciw_ceiling == pytest.approx((CIW["RB"] + CIW["RO"]) / TOTAL_CIW)
    # Judged to show none: frames 1 and 5; showing none: 4 and 5.
    assert found.f1_normal == pytest.approx(0.5)
    assert found.macro_f1 == pytest.approx((0.4 + 1 + 0.5) / 18)
    absent = found.per_class["FS"]
    assert (absent.n, absent.f2, absent.average_precision) == (0, 0, None)
    # RB ranks 0 and 4 together first, and the frames 1 and 3 with all the others.
    expected = average_precision_score(classes[:, RB], scores[:, RB])
    assert rb.average_precision == pytest.approx(expected)
    assert found.mean_average_precision == pytest.approx((expected + 1) / 2)


def test_perfect_scores_reach_the_ceiling() -> None:
    classes = table(4, (0, RB), (1, FS), (2, RO))
    found = official_scores(classes, classes.astype(float))
    assert found.f2_ciw == pytest.approx(found.f2_ciw_ceiling)
    assert found.f1_normal == 1
    assert found.macro_f1 == pytest.approx(4 / 18)


def test_all_zero_scores_call_everything_normal() -> None:
    classes = table(5, (0, RB), (1, RO))
    found = official_scores(classes, np.zeros((5, 17)))
    assert found.f2_ciw == 0
    assert found.f1_normal == pytest.approx(2 * 0.6 / 1.6)


def test_all_one_scores_call_nothing_normal() -> None:
    classes = table(5, (0, RB), (1, RB))
    found = official_scores(classes, np.ones((5, 17)))
    assert found.f1_normal == 0
    rb = found.per_class["RB"]
    assert (rb.precision, rb.recall) == (0.4, 1)
    assert found.f2_ciw == pytest.approx(CIW["RB"] * (5 * 0.4 / 2.6) / TOTAL_CIW)
    assert found.per_class["RO"].f2 == 0


def test_only_normal_or_only_defect_frames_are_scored() -> None:
    nothing = official_scores(table(3), np.zeros((3, 17)))
    assert (nothing.f2_ciw, nothing.f2_ciw_ceiling, nothing.f1_normal) == (0, 0, 1)
    assert nothing.mean_average_precision is None
    everything = official_scores(np.ones((3, 17), np.uint8), np.ones((3, 17)))
    assert (everything.f1_normal, everything.mean_average_precision) == (0, 1)
    assert everything.f2_ciw == pytest.approx(1, abs=1e-12)  # the weights' sum is rounded as the processor adds


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Few frames with few classes each, and scores that tie and touch the threshold."""
    n = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    classes = (rng.random((n, 17)) < density).astype(np.uint8)
    levels = draw(st.sampled_from([[0.0], [1.0], [0.5, 0.49999999], [0.1, 0.5, 0.9], [0.0, 0.2, 0.4, 0.45, 0.7]]))
    return classes, rng.choice(levels, size=(n, 17))


@settings(max_examples=150, deadline=None)
@given(predictions())
def test_equals_a_loop_over_the_definition(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    classes, scores = drawn
    found = official_scores(classes, scores)
    for name, value in loop_reference(classes, scores).items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-12), name
    for column, code in enumerate(CLASS_CODES):
        if classes[:, column].any():
            expected = average_precision_score(classes[:, column], scores[:, column])
            assert found.per_class[code].average_precision == pytest.approx(expected, abs=1e-12)
    assert found.f2_ciw <= found.f2_ciw_ceiling + 1e-12


def test_survives_json() -> None:
    classes = table(6, (0, RB), (1, RO))
    found = official_scores(classes, np.linspace(0, 1, 6 * 17).reshape(6, 17))
    assert ClassScores.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


@pytest.mark.parametrize(
    ("classes", "scores", "message"),
    [
        (table(3), np.zeros((3, 16)), r"\[N, 17\]"),
        (table(0), np.zeros((0, 17)), "N > 0"),
        (table(3) + 2, np.zeros((3, 17)), "must be 1"),
        (table(3), np.full((3, 17), np.nan), r"\[0, 1\]"),
        (table(3), np.full((3, 17), 1.5), r"\[0, 1\]"),
    ],
)
def test_other_values_are_refused(classes: np.ndarray, scores: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        official_scores(classes, scores)


def noisy(seed: int, inspections: int, per: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes RB and RO that mostly keep within an inspection, scores that are mostly right, inspection ids."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(inspections), per)
    classes = table(len(groups))
    for column in (RB, RO):
        classes[:, column] = (rng.random(inspections) < 0.4)[groups] & (rng.random(len(groups)) < 0.8)
    scores = np.zeros(classes.shape)
    scores[:, [RB, RO]] = np.where(
        rng.random((len(groups), 2)) < 0.85, classes[:, [RB, RO]], rng.random((len(groups), 2))
    )
    return classes, scores, groups


def test_intervals_hold_the_official_value_and_are_seeded() -> None:
    classes, scores, groups = noisy(0, 60)
    value = official_scores(classes, scores)
    first, again = (
        official_intervals(classes, scores, rng=np.random.default_rng(1), inspections=groups, replicates=200)
        for _ in range(2)
    )
    assert first == again
    assert set(first) == {"f2_ciw", "f1_normal", "macro_f1"}
    for name, estimate in first.items():
        assert estimate.value == pytest.approx(getattr(value, name), abs=1e-12)
        assert estimate.low < estimate.value < estimate.high


def test_intervals_equal_scoring_each_replicate_by_itself() -> None:
    classes, scores, groups = noisy(2, 30)
    found = official_intervals(classes, scores, rng=np.random.default_rng(3), inspections=groups, replicates=100)
    rng, replicates = np.random.default_rng(3), []
    for drawn in rng.integers(0, 30, size=(100, 30)):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in drawn])
        assert classes[rows].any(0)[[RB, RO]].all(), "both classes are drawn, so nothing is reweighted"
        replicates.append(loop_reference(classes[rows], scores[rows]))
    for name, estimate in found.items():
        expected = np.percentile([replicate[name] for replicate in replicates], [2.5, 97.5])
        assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), abs=1e-12)


def test_a_class_of_one_inspection_does_not_push_the_interval_below_the_value() -> None:
    # RB in one inspection of forty: a third of the replicates lack it. All scores are right.
    groups = np.repeat(np.arange(40), 3)
    classes = table(len(groups))
    classes[groups == 0, RB] = 1
    classes[(groups > 0) & (groups < 20), RO] = 1
    found = official_intervals(
        classes, classes.astype(float), rng=np.random.default_rng(0), inspections=groups, replicates=200
    )["f2_ciw"]
    ceiling = (CIW["RB"] + CIW["RO"]) / TOTAL_CIW
    assert (found.low, found.value, found.high) == pytest.approx((ceiling, ceiling, ceiling))


def test_intervals_need_frames_of_both_kinds() -> None:
    for classes in (table(4), np.ones((4, 17), np.uint8)):
        with pytest.raises(DataError, match="show no class"):
            official_intervals(classes, np.zeros((4, 17)), rng=np.random.default_rng(0))
