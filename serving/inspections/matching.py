"""Findings against known defects: which were found, which missed, which findings show nothing. Pure.

A finding matches a true interval if no more than `tolerance_s` lies between them; overlapping and touching ones have
nothing between them. Matching is many to many: a finding that spans two defects finds both, and a defect that was
found in two pieces counts once and makes neither piece false. So recall counts true intervals and precision counts
findings. All is told in seconds; what is known by distance is matched by metres alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class HasInterval(Protocol):
    """Anything with a start and an end in seconds, such as `Interval` and `serving.inspections.findings.Finding`."""

    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A stretch of an inspection, in seconds from the video's start."""

    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not self.start_s <= self.end_s:
            raise ValueError(f"an interval must not end before it starts, got {self.start_s} to {self.end_s}")

    def overlaps(self, other: HasInterval, tolerance_s: float) -> bool:
        """Whether no more than `tolerance_s` lies between the two."""
        return _between_s(self, other) <= tolerance_s


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Who was found, by index.

    Attributes:
        found, missed: true intervals that some finding matches, and those that none does.
        false_findings: findings that match no true interval.
        n_findings: how many findings there were.
    """

    found: tuple[int, ...]
    missed: tuple[int, ...]
    false_findings: tuple[int, ...]
    n_findings: int

    @property
    def recall(self) -> float:
        """Share of the true intervals that were found; 1 if there are none, since nothing was missed."""
        total = len(self.found) + len(self.missed)
        return len(self.found) / total if total else 1.0

    @property
    def precision(self) -> float:
        """Share of the findings that match a true interval; 1 if there are none."""
        return 1 - len(self.false_findings) / self.n_findings if self.n_findings else 1.0


def match_findings(truth: Sequence[HasInterval], findings: Sequence[HasInterval], *, tolerance_s: float) -> Matching:
    """Match findings to true intervals, in any order; see the module. `ValueError` if the tolerance is negative."""
    if tolerance_s < 0:
        raise ValueError(f"tolerance_s must not be negative, got {tolerance_s}")
    matched = [[_between_s(true, finding) <= tolerance_s for finding in findings] for true in truth]
    return Matching(
        found=tuple(i for i, row in enumerate(matched) if any(row)),
        missed=tuple(i for i, row in enumerate(matched) if not any(row)),
        false_findings=tuple(j for j in range(len(findings)) if not any(row[j] for row in matched)),
        n_findings=len(findings),
    )


def merge_intervals(intervals: Sequence[HasInterval], *, gap_s: float = 0.0) -> list[Interval]:
    """The union of intervals in any order, those no more than `gap_s` apart made one; sorted and disjoint.

    For truths that name each class of a place: a binary pair finds the place, not the classes.
    """
    merged: list[Interval] = []
    for each in sorted(intervals, key=lambda interval: interval.start_s):
        if merged and each.start_s - merged[-1].end_s <= gap_s:
            merged[-1] = Interval(start_s=merged[-1].start_s, end_s=max(merged[-1].end_s, each.end_s))
        else:
            merged.append(Interval(start_s=each.start_s, end_s=each.end_s))
    return merged


def flagged_normal_share(
    truth: Sequence[HasInterval], findings: Sequence[HasInterval], *, tolerance_s: float, duration_s: float
) -> float:
    """Share of the time further than `tolerance_s` from every true interval that lies inside findings.

    Recall and false findings alone would praise one finding over a whole video; this is what such a finding costs.
    0 where no time is that far from a true interval. Intervals are cut to [0, `duration_s`].
    """

    def covered_s(spans: Sequence[HasInterval]) -> float:
        cut = [
            Interval(start_s=max(0.0, span.start_s), end_s=min(duration_s, span.end_s))
            for span in spans
            if span.start_s < duration_s and span.end_s > 0
        ]
        return sum(span.end_s - span.start_s for span in merge_intervals(cut))

    widened = [Interval(start_s=t.start_s - tolerance_s, end_s=t.end_s + tolerance_s) for t in truth]
    near_s = covered_s(widened)
    normal_s = duration_s - near_s
    flagged_s = covered_s([*widened, *findings]) - near_s
    return flagged_s / normal_s if normal_s > 0 else 0.0


def _between_s(a: HasInterval, b: HasInterval) -> float:
    """Time between two intervals; 0 if they touch or overlap."""
    return max(0.0, a.start_s - b.end_s, b.start_s - a.end_s)
