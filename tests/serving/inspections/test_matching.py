from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.inspections.matching import Interval, flagged_normal_share, match_findings, merge_intervals


def intervals(*spans: tuple[float, float]) -> list[Interval]:
    return [Interval(start_s=start, end_s=end) for start, end in spans]


def test_hits_misses_and_false_findings() -> None:
    truth = intervals((1, 2), (5, 6), (20, 21))
    matching = match_findings(truth, intervals((1.5, 3), (10, 11), (6.5, 7)), tolerance_s=0.5)
    assert (matching.found, matching.missed, matching.false_findings) == ((0, 1), (2,), (1,))
    assert matching.recall == pytest.approx(2 / 3)
    assert matching.precision == pytest.approx(2 / 3)


def test_a_finding_over_two_defects_finds_both_and_two_pieces_of_one_are_not_false() -> None:
    over_both = match_findings(intervals((1, 2), (3, 4)), intervals((0, 5)), tolerance_s=0)
    assert (over_both.found, over_both.false_findings) == ((0, 1), ())
    in_pieces = match_findings(intervals((1, 4)), intervals((1, 2), (3, 4)), tolerance_s=0)
    assert (in_pieces.found, in_pieces.false_findings) == ((0,), ())


def test_nothing_to_find_and_nothing_found() -> None:
    assert match_findings([], [], tolerance_s=1).recall == 1
    nothing_found = match_findings(intervals((0, 1)), [], tolerance_s=1)
    assert (nothing_found.recall, nothing_found.precision) == (0, 1)
    nothing_true = match_findings([], intervals((0, 1)), tolerance_s=1)
    assert (nothing_true.recall, nothing_true.precision, nothing_true.false_findings) == (1, 0, (0,))


def test_time_flagged_without_cause_is_counted_apart_from_findings() -> None:
    def share(truth: list[Interval], findings: list[Interval]) -> float:
        return flagged_normal_share(truth, findings, tolerance_s=1, duration_s=20)

    truth = intervals((4, 6), (9, 11))
    assert share(truth, intervals((0, 20))) == 1
    assert share(truth, []) == 0
    assert share(truth, intervals((3, 7))) == 0
    assert share(truth, intervals((5, 9), (18, 30))) == pytest.approx((1 + 2) / 12)
    assert share(intervals((0, 20)), intervals((0, 20))) == 0


def test_merging_joins_what_overlaps_or_lies_close() -> None:
    spans = intervals((5, 6), (0, 2), (1, 4), (4.5, 4.6))
    assert merge_intervals(spans) == intervals((0, 4), (4.5, 4.6), (5, 6))
    assert merge_intervals(spans, gap_s=0.5) == intervals((0, 6))


def test_overlapping_is_what_matching_asks_for() -> None:
    (interval,) = intervals((2, 3))
    for start, end, tolerance_s, overlaps in ((0, 2, 0, True), (3.5, 4, 0.5, True), (3.5, 4, 0.4, False)):
        assert interval.overlaps(Interval(start_s=start, end_s=end), tolerance_s) == overlaps


def test_impossible_input_is_refused() -> None:
    with pytest.raises(ValueError, match="end before"):
        Interval(start_s=2, end_s=1)
    with pytest.raises(ValueError, match="negative"):
        match_findings([], [], tolerance_s=-1)


SPANS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 9)).map(lambda s: Interval(start_s=s[0], end_s=s[0] + s[1])),
    max_size=8,
)


@given(SPANS, SPANS, st.integers(0, 5))
def test_matching_is_symmetric_and_grows_with_the_tolerance(
    truth: list[Interval], findings: list[Interval], tolerance: int
) -> None:
    matching = match_findings(truth, findings, tolerance_s=tolerance)
    swapped = match_findings(findings, truth, tolerance_s=tolerance)
    assert sorted(matching.found + matching.missed) == list(range(len(truth)))
    assert matching.missed == swapped.false_findings
    assert matching.false_findings == swapped.missed
    wider = match_findings(truth, findings, tolerance_s=tolerance + 1)
    assert set(wider.found) >= set(matching.found)
    assert set(wider.false_findings) <= set(matching.false_findings)
    assert match_findings(truth, truth, tolerance_s=0).recall == 1


@given(SPANS, st.integers(0, 5))
def test_merged_intervals_are_apart_and_cover_the_same(spans: list[Interval], gap: int) -> None:
    merged = merge_intervals(spans, gap_s=gap)
    assert all(later.start_s - earlier.end_s > gap for earlier, later in pairwise(merged))
    for each in spans:
        assert any(m.start_s <= each.start_s and each.end_s <= m.end_s for m in merged)
