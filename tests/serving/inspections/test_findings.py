from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ConfigError
from serving.inspections.findings import Finding, FindingRules, find_findings, leave_for

STEP_S = 0.5
RULES = FindingRules(enter=0.6, leave=0.4, min_duration_s=0, join_gap_s=0)


def find(times_s: list[float], scores: list[float], **changed: float) -> tuple[Finding, ...]:
    return find_findings(times_s, scores, dataclasses.replace(RULES, **changed), step_s=STEP_S)


def at_half_seconds(scores: list[float], **changed: float) -> tuple[Finding, ...]:
    return find([i * 0.5 for i in range(len(scores))], scores, **changed)


def spans(findings: tuple[Finding, ...]) -> list[tuple[float, float]]:
    return [(each.start_s, each.end_s) for each in findings]


def test_opens_at_enter_and_closes_below_leave() -> None:
    (finding,) = at_half_seconds([0.5, 0.59, 0.6, 0.9, 0.4, 0.39, 0.59])
    assert finding == Finding(
        start_s=1.0, end_s=2.5, peak_s=1.5, peak_score=0.9, mean_score=pytest.approx(1.9 / 3), frames=3
    )


def test_nothing_comes_of_nothing() -> None:
    assert at_half_seconds([]) == ()
    assert at_half_seconds([0.59] * 10) == ()


def test_a_single_sample_stands_for_one_step_and_the_last_one_too() -> None:
    assert spans(at_half_seconds([0.9, 0, 0, 0.9])) == [(0, 0.5), (1.5, 2.0)]


def test_short_gaps_are_joined_before_short_findings_are_dropped() -> None:
    scores = [0.9, 0, 0.9, 0, 0, 0.9]
    assert spans(at_half_seconds(scores, join_gap_s=0.5)) == [(0, 1.5), (2.5, 3.0)]
    assert spans(at_half_seconds(scores, join_gap_s=0.5, min_duration_s=1.0)) == [(0, 1.5)]
    assert spans(at_half_seconds(scores, min_duration_s=1.0)) == []


def test_a_joined_finding_averages_what_it_spans() -> None:
    (finding,) = at_half_seconds([0.9, 0, 0.9], join_gap_s=0.5)
    assert (finding.frames, finding.mean_score) == (3, pytest.approx(0.6))
    assert finding.peak_s == 0  # the earliest of equal ones


def test_missing_samples_close_a_finding_unless_the_hole_is_small_enough_to_join() -> None:
    times = [0.0, 0.5, 3.0, 3.5]
    assert spans(find(times, [0.9] * 4)) == [(0, 1.0), (3.0, 4.0)]
    assert spans(find(times, [0.9] * 4, join_gap_s=2)) == [(0, 4.0)]
    # After a hole, a score between the thresholds continues nothing.
    assert spans(find(times, [0.9, 0.9, 0.5, 0.5])) == [(0, 1.0)]


def test_samples_denser_than_the_step_end_where_the_next_one_begins() -> None:
    assert spans(find([0, 0.48, 0.96], [0.9, 0.9, 0])) == [(0, 0.96)]


@pytest.mark.parametrize(("enter", "leave"), [(0.5, 0.3100), (0.9, 0.8017), (0.0, 0.0), (1.0, 1.0)])
def test_the_default_leave_lies_0_8_logits_lower(enter: float, leave: float) -> None:
    assert leave_for(enter) == pytest.approx(leave, abs=5e-5)


@pytest.mark.parametrize(
    ("times", "scores", "step_s"),
    [
        ([0, 0], [0, 0], 1),
        ([1, 0], [0, 0], 1),
        ([0, float("nan")], [0, 0], 1),
        ([0], [0, 0], 1),
        ([0], [1.5], 1),
        ([0], [float("nan")], 1),
        ([0], [0], 0),
    ],
)
def test_impossible_samples_are_refused(times: list[float], scores: list[float], step_s: float) -> None:
    with pytest.raises(ValueError, match="must"):
        find_findings(times, scores, RULES, step_s=step_s)


@pytest.mark.parametrize(
    "rules", [{"leave": 0.7}, {"leave": -0.1}, {"enter": 1.1}, {"min_duration_s": -1}, {"join_gap_s": -1}]
)
def test_impossible_rules_are_refused(rules: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must"):
        dataclasses.replace(RULES, **rules)


# Times in units of 1/8 s, which floats add without rounding, so that equalities below are exact.
Case = tuple[list[float], list[float], FindingRules]
EIGHTHS = st.integers(1, 40).map(lambda n: n / 8)


@st.composite
def inspections(draw: st.DrawFn) -> Case:
    gaps = draw(st.lists(st.sampled_from([0.25, 0.5, 0.5, 0.5, 0.625, 3.0]), max_size=40))
    scores = draw(st.lists(st.sampled_from([0.0, 0.3, 0.45, 0.6, 0.95, 1.0]), min_size=len(gaps), max_size=len(gaps)))
    times = [sum(gaps[:i]) for i in range(len(gaps))]
    enter = draw(st.sampled_from([0.45, 0.6, 1.0]))
    rules = FindingRules(
        enter=enter,
        leave=draw(st.sampled_from([0.3, 0.4, enter])),
        min_duration_s=draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])),
        join_gap_s=draw(st.sampled_from([0.0, 0.5, 2.0, 5.0])),
    )
    return times, scores, rules


@given(inspections())
def test_findings_are_ordered_apart_and_in_range(case: Case) -> None:
    times, scores, rules = case
    findings = find_findings(times, scores, rules, step_s=STEP_S)
    for earlier, later in pairwise(findings):
        assert later.start_s - earlier.end_s > rules.join_gap_s
    for each in findings:
        inside = [s for t, s in zip(times, scores, strict=True) if each.start_s <= t < each.end_s]
        assert times[0] <= each.start_s <= each.peak_s < each.end_s <= times[-1] + 0.5
        assert each.start_s in times
        assert each.duration_s >= rules.min_duration_s
        assert each.peak_score == max(inside) >= rules.enter
        assert scores[times.index(each.start_s)] >= rules.enter
        assert each.frames == len(inside)
        assert each.mean_score == pytest.approx(np.mean(inside))


@given(inspections())
def test_every_sample_at_enter_is_found_unless_short_findings_are_dropped(
    case: Case,
) -> None:
    times, scores, rules = case
    findings = find_findings(times, scores, dataclasses.replace(rules, min_duration_s=0), step_s=STEP_S)
    covered = [any(f.start_s <= t < f.end_s for f in findings) for t in times]
    assert all(c for c, s in zip(covered, scores, strict=True) if s >= rules.enter)
    if rules.join_gap_s == 0:
        assert not any(c for c, s in zip(covered, scores, strict=True) if s < rules.leave)


@given(inspections(), EIGHTHS)
def test_shifting_time_shifts_the_findings(case: Case, shift: float) -> None:
    times, scores, rules = case
    moved = find_findings([t + shift for t in times], scores, rules, step_s=STEP_S)
    assert spans(moved) == [
        (a + shift, b + shift) for a, b in spans(find_findings(times, scores, rules, step_s=STEP_S))
    ]


@given(inspections())
def test_a_lower_leave_never_finds_less_time(case: Case) -> None:
    times, scores, rules = case
    wide = find_findings(times, scores, dataclasses.replace(rules, leave=0), step_s=STEP_S)
    for each in find_findings(times, scores, rules, step_s=STEP_S):
        assert any(w.start_s <= each.start_s and each.end_s <= w.end_s for w in wide)


@given(inspections(), st.integers(0, 40))
def test_what_comes_long_after_changes_nothing(case: Case, n: int) -> None:
    """A hole wider than the gap that is joined separates an inspection into two that know nothing of each other."""
    times, scores, rules = case
    rules = dataclasses.replace(rules, join_gap_s=2)
    later = [t + 100 for t in times[:n]]
    both = find_findings(times + later, scores + scores[:n], rules, step_s=STEP_S)
    alone = find_findings(times, scores, rules, step_s=STEP_S)
    assert both[: len(alone)] == alone
    assert len(both) - len(alone) == len(find_findings(later, scores[:n], rules, step_s=STEP_S))
