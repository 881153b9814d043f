"""Readings of a distance counter to the distance of every sampled frame; pure, whoever did the reading.

**Parsing.** A counter is a number with a decimal sign, alone in its text but for a label and the unit m. Dates, times,
node names, slopes and diameters are not: rather no reading than one of something else.

**Rejecting.** A crawler stops and reverses, so distance may fall, but not leap. Of all readings the heaviest chain is
kept in which each follows from the one before at a possible speed. A leap within the chain costs as much as some
readings weigh: a burst of misreadings is dropped, while a counter that was reset goes on in a stretch of its own.

**Interpolating.** Between two kept readings distance follows the time during which the counter changed, so a stop
between them is a stop in the result. How far the distance between them differs from what the crawler's usual pace
makes of that time bounds the error; it lowers the confidence, and below `CONFIDENT` a frame gets no distance at all.
"""

from __future__ import annotations

import math
import re
import statistics
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Source = Literal["osd", "interpolated", "sidecar", "none"]

CONFIDENT = 0.5
"""Least confidence with which a distance is given."""

MAX_SPEED_M_S = 0.6
"""Faster than crawlers drive while they film, forwards or back."""

MAX_GAP_S = 24.0
"""Longest time between two readings over which distance is interpolated."""

# Two roundings of a counter with one decimal.
_ROUNDING_M = 0.1
# What a leap weighs, in readings of full confidence; fewer than this in a row that contradict the rest are dropped.
_LEAP_COST = 5.0
# Fewer readings between two leaps, or in all, say nothing.
_MIN_SUPPORT = 3
# A reading may have so many wrong ones between itself and the one that it follows from.
_LOOK_BACK = 32
# Error of an interpolated distance at which it is no longer confident, metres.
_MAX_ERROR_M = 0.075

_NUMBER = re.compile(
    r"(?<![\w,:/+-])(?<!\d\.)(?P<sign>[+-]?)\s?(?P<whole>\d{1,4})\s?[.,]\s?(?P<part>\d{1,3})(?![\d.,:/])"
    r"(?:\s*(?P<unit>m)(?![^\W\d_]|[%°/²³])|(?!\s*(?:[^\W\d_]|[%°\"'])))",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Counter:
    """A number as a counter shows it; `at` is where in the text it stands."""

    distance_m: float
    decimals: int
    has_unit: bool
    at: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the counter was read as at a time; `confidence` in (0, 1] is the reader's."""

    time_s: float
    distance_m: float
    confidence: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.time_s) and math.isfinite(self.distance_m) and 0 < self.confidence <= 1):
            raise ValueError(f"a reading needs finite numbers and a confidence in (0, 1], got {self}")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a frame was taken; without a distance the source is `none` and there is no confidence."""

    distance_m: float | None
    source: Source
    confidence: float | None


NOWHERE = Place(distance_m=None, source="none", confidence=None)


def parse_counter(text: str) -> Counter | None:
    """The distance that a line of a display shows; None if it shows none, or more than one number that could be."""
    # Readers of text take a zero for the letter, and give full-width signs for narrow ones.
    text = unicodedata.normalize("NFKC", text).replace("−", "-").replace("–", "-")  # noqa: RUF001
    text = re.sub(r"(?<=[\d.,])[oO]|[oO](?=[\d.,])", "0", text)
    found = list(_NUMBER.finditer(text))
    if len(found) != 1:
        return None
    (match,) = found
    size = float(f"{match['whole']}.{match['part']}")
    return Counter(
        distance_m=-size if match["sign"] == "-" else size,
        decimals=len(match["part"]),
        has_unit=match["unit"] is not None,
        at=match.span(),
    )


def is_possible(earlier: Reading, later: Reading) -> bool:
    """Whether a crawler gets from one reading to the other in the time between."""
    return can_be_driven(later.distance_m - earlier.distance_m, later.time_s - earlier.time_s)


def can_be_driven(metres: float, seconds: float) -> bool:
    """Whether a crawler gets so far, forwards or back, in that time."""
    return abs(metres) <= MAX_SPEED_M_S * seconds + _ROUNDING_M


def possible_stretches(readings: Sequence[Reading]) -> list[list[Reading]]:
    """The readings that are kept, in order of time, apart where the counter leapt; see the module.

    `readings` rise strictly in time; `ValueError` if not.
    """
    if any(b.time_s <= a.time_s for a, b in pairwise(readings)):
        raise ValueError("readings must rise strictly in time")
    chain = _heaviest_chain(readings)
    stretches: list[list[Reading]] = []
    for reading in chain:
        if stretches and is_possible(stretches[-1][-1], reading):
            stretches[-1].append(reading)
        else:
            stretches.append([reading])
    return [each for each in stretches if len(each) >= _MIN_SUPPORT]


def _heaviest_chain(readings: Sequence[Reading]) -> list[Reading]:
    weights: list[float] = []
    previous: list[int | None] = []
    heaviest: int | None = None  # of all so far, from which a leap would start
    for i, reading in enumerate(readings):
        before, weight = None, 0.0
        if heaviest is not None and weights[heaviest] - _LEAP_COST > weight:
            before, weight = heaviest, weights[heaviest] - _LEAP_COST
        for j in range(max(0, i - _LOOK_BACK), i):
            if weights[j] > weight and is_possible(readings[j], reading):
                before, weight = j, weights[j]
        weights.append(weight + reading.confidence)
        previous.append(before)
        if heaviest is None or weights[i] > weights[heaviest]:
            heaviest = i
    chain: list[Reading] = []
    while heaviest is not None:
        chain.append(readings[heaviest])
        heaviest = previous[heaviest]
    return chain[::-1]


def locate(
    times_s: Sequence[float],
    moving_s: Sequence[float],
    readings: Sequence[Reading],
    failures_s: Sequence[float] = (),
) -> list[Place]:
    """Where each frame was taken, [N].

    Args:
        times_s: [N], rising strictly, of the sampled frames.
        moving_s: [N], never falling: for how long the counter had changed by then; `times_s` itself if unknown.
        readings: of some of these frames, rising strictly in time. `ValueError` if of any other.
        failures_s: rising, when the counter was looked at and could not be read. Across more than one of these nothing
            is interpolated: where it cannot be read, whether it changes cannot be told either.
    """
    if len(times_s) != len(moving_s):
        raise ValueError(f"times_s and moving_s must be [N] alike, got {len(times_s)} and {len(moving_s)}")
    frame_at = {time_s: i for i, time_s in enumerate(times_s)}
    if any(reading.time_s not in frame_at for reading in readings):
        raise ValueError("readings must be of the sampled frames")
    places = [NOWHERE] * len(times_s)
    stretches = possible_stretches(readings)
    steps = [pair for stretch in stretches for pair in pairwise(stretch)]
    pace = usual_pace(
        [(b.distance_m - a.distance_m, moving_s[frame_at[b.time_s]] - moving_s[frame_at[a.time_s]]) for a, b in steps]
    )
    for stretch in stretches:
        for reading in stretch:
            places[frame_at[reading.time_s]] = _place(reading.distance_m, "osd", reading.confidence)
        for earlier, later in pairwise(stretch):
            if later.time_s - earlier.time_s > MAX_GAP_S or _n_within(failures_s, earlier, later) > 1:
                continue
            for i in range(frame_at[earlier.time_s] + 1, frame_at[later.time_s]):
                places[i] = _between(earlier, later, i, frame_at, moving_s, pace)
    return places


def usual_pace(steps: Sequence[tuple[float, float]]) -> float | None:
    """Median speed, m/s, over steps of (metres, seconds of movement); None if nothing moved."""
    paces = [abs(metres) / seconds for metres, seconds in steps if seconds > 0 and metres != 0]
    return statistics.median(paces) if paces else None


def largest_error(metres: float, seconds: float, pace: float | None) -> float:
    """How far an even course between two readings may be off: half of what does not fit the usual pace, metres."""
    return abs(abs(metres) - (pace or 0.0) * seconds) / 2


def _n_within(times_s: Sequence[float], earlier: Reading, later: Reading) -> int:
    return bisect_left(times_s, later.time_s) - bisect_left(times_s, earlier.time_s)


def _between(
    earlier: Reading,
    later: Reading,
    i: int,
    frame_at: dict[float, int],
    moving_s: Sequence[float],
    pace: float | None,
) -> Place:
    begin_s, end_s = moving_s[frame_at[earlier.time_s]], moving_s[frame_at[later.time_s]]
    share = (moving_s[i] - begin_s) / (end_s - begin_s) if end_s > begin_s else 0.5
    metres = later.distance_m - earlier.distance_m
    error_m = largest_error(metres, end_s - begin_s, pace)
    # Full confidence where the pace fits, the least that is confident where the error may be as large as is allowed.
    trust = 1 - (1 - CONFIDENT) * error_m / _MAX_ERROR_M
    distance_m = round(earlier.distance_m + share * metres, 3)
    return _place(distance_m, "interpolated", min(earlier.confidence, later.confidence) * trust)


def _place(distance_m: float, source: Source, confidence: float) -> Place:
    if confidence < CONFIDENT:
        return NOWHERE
    return Place(distance_m=distance_m, source=source, confidence=round(confidence, 3))
