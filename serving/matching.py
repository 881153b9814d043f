"""Findings against the truth of an inspection. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A stretch of an inspection, seconds."""

    start_s: float
    end_s: float

    def overlaps(self, other: Interval, tolerance_s: float) -> bool:
        """Whether the two share an instant once one of them is widened by the tolerance at both ends."""
        return self.start_s - tolerance_s <= other.end_s and other.start_s <= self.end_s + tolerance_s


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Which true events were found: indices into the truth and into the findings."""

    found: tuple[int, ...]
    missed: tuple[int, ...]
    false_findings: tuple[int, ...]

    @property
    def recall(self) -> float:
        """Share of the true events that were found; 1 where there are none."""
        total = len(self.found) + len(self.missed)
        return len(self.found) / total if total else 1.0


def merge_intervals(intervals: Sequence[Interval], *, gap_s: float = 0.0) -> list[Interval]:
    """The union of `intervals`, those at most `gap_s` apart made one, in order."""
    merged: list[Interval] = []
    for interval in sorted(intervals, key=lambda i: i.start_s):
        if merged and interval.start_s <= merged[-1].end_s + gap_s:
            merged[-1] = Interval(start_s=merged[-1].start_s, end_s=max(merged[-1].end_s, interval.end_s))
        else:
            merged.append(interval)
    return merged


def match_findings(truth: Sequence[Interval], findings: Sequence[Interval], *, tolerance_s: float) -> Matching:
    """A true event is found if any finding overlaps it within the tolerance; a finding that overlaps none is false."""
    found = tuple(i for i, event in enumerate(truth) if any(event.overlaps(f, tolerance_s) for f in findings))
    false = tuple(j for j, f in enumerate(findings) if not any(event.overlaps(f, tolerance_s) for event in truth))
    return Matching(found=found, missed=tuple(i for i in range(len(truth)) if i not in found), false_findings=false)
