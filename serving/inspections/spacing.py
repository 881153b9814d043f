"""How far apart along the pipe the scored frames of a video came to lie."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from serving.formats.frames_parquet import BETWEEN, SCORED, STILL, Frames
from serving.inspections.distance import can_be_driven


@dataclass(frozen=True, kw_only=True)
class Spacing:
    """What became of a video's sampled frames; `scored + still + between` are all of them.

    Attributes:
        scored: shown to the pair.
        still: took over the score of the last scored one, which shows the same.
        between: took it over since the way between them is shorter than was asked for.
        unlocated: scored frames of which no distance is known.
        spacing_m, longest_gap_m: median and largest distance between neighbours that are scored and of which both
            distances are known, metres; None if there are none. Where a counter was set back nothing lies between.
    """

    scored: int
    still: int
    between: int
    unlocated: int
    spacing_m: float | None
    longest_gap_m: float | None


def spacing_of(frames: Frames) -> Spacing:
    """Counts and distances, the latter to the millimetre."""
    scored = [
        (time_s, distance_m)
        for time_s, distance_m, source in zip(frames.pts_s, frames.distance_m, frames.score_source, strict=True)
        if source == SCORED
    ]
    gaps_m = _gaps(scored)
    return Spacing(
        scored=len(scored),
        still=sum(source == STILL for source in frames.score_source),
        between=sum(source == BETWEEN for source in frames.score_source),
        unlocated=sum(distance_m is None for _, distance_m in scored),
        spacing_m=round(statistics.median(gaps_m), 3) if gaps_m else None,
        longest_gap_m=round(max(gaps_m), 3) if gaps_m else None,
    )


def _gaps(scored: Sequence[tuple[float, float | None]]) -> list[float]:
    return [
        abs(later_m - earlier_m)
        for (earlier_s, earlier_m), (later_s, later_m) in pairwise(scored)
        if earlier_m is not None and later_m is not None and can_be_driven(later_m - earlier_m, later_s - earlier_s)
    ]
