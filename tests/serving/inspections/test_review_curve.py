from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.inspections.findings import FindingRules, leave_for
from serving.inspections.matching import Interval
from serving.inspections.review_curve import Allowances, Axis, Curve, Inspection, Resamples, sweep

RULES = FindingRules(enter=0.5, leave=leave_for(0.5), min_duration_s=0.0, join_gap_s=0.0)
NEAR = Allowances(tolerance=0.0, margin_m=0.5)


def inspection(
    scores: list[float], *events: tuple[float, float], metres: list[float] | None = None, axis: Axis = "time"
) -> Inspection:
    """A frame a second; the camera moves 0.5 m/s unless `metres` says where it is at each second, and at the end."""
    times = np.arange(len(scores) + 1, dtype=np.float64)
    return Inspection(
        name="run.mp4",
        times_s=times[:-1],
        scores=np.array(scores),
        step_s=1.0,
        track_s=times,
        track_m=0.5 * times if metres is None else np.array(metres, np.float64),
        events=tuple(Interval(start_s=start, end_s=end) for start, end in events),
        axis=axis,
    )


def at(curve: Curve, threshold: float) -> tuple[float, ...]:
    """Events found, findings, false ones, metres covered and to watch, of all inspections."""
    i = curve.at(threshold)
    return tuple(
        float(each[:, i].sum()) for each in (curve.found, curve.findings, curve.false, curve.flagged_m, curve.watched_m)
    )


def test_counts_and_metres_of_an_inspection_worked_out_by_hand() -> None:
    # 10 s, 5 m. Events at 2 to 3 s and 8 to 9 s; at 0.5 findings are [2, 4) s and [5, 6) s: 1 to 2 m and 2.5 to 3 m.
    run = inspection([0.1, 0.1, 0.9, 0.9, 0.1, 0.6, 0.1, 0.1, 0.3, 0.1], (2, 3), (8.2, 8.8))
    curve = sweep([run], RULES, NEAR, marked=(0.3, 0.9))
    assert curve.length_m.tolist() == [5.0]
    # To watch: 0.5 to 2.5 m and 2 to 3.5 m, together 3 m.
    assert at(curve, 0.5) == pytest.approx((1, 2, 1, 1.5, 3.0))
    assert at(curve, 0.9) == pytest.approx((1, 1, 0, 1.0, 2.0))
    # [8, 9) s adds 4 to 4.5 m, to watch 3.5 to 5 m.
    assert at(curve, 0.3) == pytest.approx((2, 3, 1, 2.0, 4.5))
    assert at(curve, 0.0) == pytest.approx((2, 1, 0, 5.0, 5.0))
    i = curve.at(0.5)
    assert curve.recall[i] == 0.5
    assert curve.false_per_100m[i] == pytest.approx(20)
    assert curve.watched_share[i] == pytest.approx(0.6)


def test_pipe_that_is_passed_twice_counts_once_and_a_stop_is_watched_by_its_margin() -> None:
    # To 2 m, back to 1 m, on to 3 m; the finding is the way back and forth again.
    back = inspection([0.1, 0.1, 0.9, 0.9, 0.1], (2, 3), metres=[0, 1, 2, 1, 2, 3])
    assert at(sweep([back], RULES, NEAR), 0.5) == pytest.approx((1, 1, 0, 1.0, 2.0))
    stop = inspection([0.1, 0.9, 0.9, 0.1], (1, 2), metres=[0, 1, 1, 1, 2])
    assert at(sweep([stop], RULES, NEAR), 0.5) == pytest.approx((1, 1, 0, 0.0, 1.0))


def test_events_known_by_distance_are_matched_by_distance() -> None:
    # The finding covers 1 to 2 m.
    scores = [0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1]
    by_metre = inspection(scores, (2.4, 2.4), (3.2, 3.2), axis="distance")
    near = Allowances(tolerance=0.5, margin_m=0.0)
    assert at(sweep([by_metre], RULES, near), 0.5)[:3] == (1, 1, 0)
    assert at(sweep([by_metre], RULES, replace(near, tolerance=0.3)), 0.5)[:3] == (0, 1, 1)


def test_the_highest_threshold_that_catches_enough_is_taken() -> None:
    runs = [inspection([0.1, score, 0.1, 0.2], (1, 2)) for score in (0.9, 0.8, 0.7, 0.6)]
    curve = sweep(runs, RULES, Allowances(tolerance=0.0, margin_m=0.0))
    resamples = Resamples(curve, np.random.default_rng(0), n=50)
    three = resamples.to_catch(0.75)
    assert (three.needed, three.threshold, three.metres) == (3, 0.7, pytest.approx(1.5))
    nearly_all = resamples.to_catch(0.95)
    assert (nearly_all.needed, nearly_all.threshold, nearly_all.metres) == (4, 0.6, pytest.approx(2.0))
    assert nearly_all.share is not None
    assert nearly_all.share.value == pytest.approx(0.25)


def test_events_where_nothing_was_scored_cannot_be_caught() -> None:
    curve = sweep([inspection([0.9, 0.1], (0, 1), (30, 31))], RULES, NEAR)
    assert curve.recall.max() == 0.5
    watching = Resamples(curve, np.random.default_rng(0), n=10).to_catch(0.95)
    assert (watching.threshold, watching.metres, watching.share) == (None, None, None)
    assert Resamples(curve, np.random.default_rng(0), n=10).to_catch(0.5).share is not None


def test_intervals_come_of_whole_inspections() -> None:
    """Of two inspections, one found and one missed, a resample holds both, or the one or the other twice."""
    curve = sweep([inspection([0.9, 0.1], (0, 1)), inspection([0.1, 0.2], (0, 1))], RULES, NEAR)
    resamples = Resamples(curve, np.random.default_rng(1))
    recall = resamples.recall(curve.at(0.5))
    assert (recall.value, recall.low, recall.high) == (0.5, 0.0, 1.0)
    # Alike inspections leave nothing to chance.
    alike = sweep([inspection([0.9, 0.1], (0, 1))] * 5, RULES, NEAR)
    sure = Resamples(alike, np.random.default_rng(1)).watched_share(alike.at(0.5))
    assert sure.low == pytest.approx(sure.value) == pytest.approx(sure.high)


def test_resamples_without_events_are_left_out_and_few_events_prove_little() -> None:
    curve = sweep([inspection([0.9, 0.1], (0, 1)), *[inspection([0.2, 0.1])] * 3], RULES, NEAR)
    recall = Resamples(curve, np.random.default_rng(1)).recall(curve.at(0.5))
    # Every resample with the event finds it; Wilson's bound for 1 of 1 is 1 / (1 + 1.96^2), for 10 of 10 10 / 13.84.
    assert recall.low == pytest.approx(1 / (1 + 1.959964**2))
    assert recall.high == pytest.approx(1.0)
    ten = sweep([inspection([0.9, 0.1], (0, 1))] * 10, RULES, NEAR)
    assert Resamples(ten, np.random.default_rng(1)).recall(ten.at(0.5)).low == pytest.approx(10 / (10 + 1.959964**2))


@st.composite
def inspections(draw: st.DrawFn) -> list[Inspection]:
    runs = []
    for _ in range(draw(st.integers(1, 3))):
        scores = draw(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=14))
        metres = draw(st.lists(st.floats(0, 9), min_size=len(scores), max_size=len(scores)))
        starts = draw(st.lists(st.floats(0, len(scores) - 1), max_size=3))
        runs.append(inspection(scores, *[(s, s + 0.8) for s in starts], metres=[*metres, max(metres) + 1]))
    return runs


@settings(max_examples=60, deadline=None)
@given(
    runs=inspections(),
    min_duration_s=st.sampled_from([0.0, 1.0, 2.5]),
    join_gap_s=st.sampled_from([0.0, 1.0, 3.0]),
    margin_m=st.sampled_from([0.0, 0.5]),
)
def test_recall_and_metres_never_rise_with_the_threshold_whatever_the_rules(
    runs: list[Inspection], min_duration_s: float, join_gap_s: float, margin_m: float
) -> None:
    rules = replace(RULES, min_duration_s=min_duration_s, join_gap_s=join_gap_s)
    curve = sweep(runs, rules, Allowances(tolerance=0.5, margin_m=margin_m))
    for falling in (curve.found, curve.flagged_m, curve.watched_m):
        assert np.all(np.diff(falling, axis=1) <= 1e-9)
    assert np.all(curve.flagged_m <= curve.watched_m + 1e-9)
    assert np.all(curve.watched_m <= curve.length_m[:, None] + 1e-9)
    # What catches all reaches every event that any threshold does, and all of the pipe is the most it takes.
    watching = Resamples(curve, np.random.default_rng(0), n=20).to_catch(1.0)
    if watching.threshold is not None:
        assert curve.recall[curve.at(watching.threshold)] == 1
        assert watching.share is not None
        assert watching.share.value <= 1 + 1e-9


def test_the_number_of_findings_may_rise_and_fall_with_the_threshold() -> None:
    curve = sweep([inspection([0.9, 0.1, 0.9, 0.1])], RULES, NEAR)
    assert [at(curve, t)[2] for t in (0.0, 0.5)] == [1, 2]


def test_what_makes_no_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="no inspections"):
        sweep([], RULES, NEAR)
    with pytest.raises(ValueError, match="did not move"):
        inspection([0.1, 0.2], metres=[1, 1, 1])
    with pytest.raises(ValueError, match="must not be negative"):
        Allowances(tolerance=-1, margin_m=0)
    with pytest.raises(ValueError, match="no threshold"):
        sweep([inspection([0.1, 0.2])], RULES, NEAR).at(0.123)
