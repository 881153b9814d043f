"""Scores over time to findings: the intervals of an inspection that somebody should look at. Pure.

**What a sample stands for.** The sample at time t speaks for [t, next sample), but for no more than one sampling step
`step_s`; the last sample for one step. A finding from sample i to sample j is the interval from time i to
where sample j's ends. So a finding of n regular samples lasts n steps; its start is a time at which a frame was
judged, late by at most one step against what it shows, as is its end.

**Hysteresis.** A finding opens at a sample with score >= `enter` and stays open while scores are >= `leave`. It
also closes where samples are missing (over 1.5 steps to the next one), since nothing is known of what lies between.

**Joining, then duration.** Findings no more than `join_gap_s` apart become one, across missing samples too;
afterwards those shorter than `min_duration_s` are dropped.

Shape legend: N samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError

HYSTERESIS_LOGITS = 0.8
"""How far below the threshold, in logits, a score may fall before a finding closes, unless one says otherwise."""

MISSING_STEPS = 1.5
"""Steps between two samples from which on samples are missing between them; below, it is jitter."""

_TOLERANCE_S = 1e-6  # durations are sums of rounded times

Numbers = Sequence[float] | NDArray[np.float64] | NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FindingRules:
    """When scores make a finding; see the module. Raises `ConfigError` unless 0 <= leave <= enter <= 1."""

    enter: float
    leave: float
    min_duration_s: float = 0.75
    join_gap_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.leave <= self.enter <= 1:
            raise ConfigError(
                f"a finding opens at {self.enter} and closes below {self.leave}: 0 <= leave <= enter <= 1 must hold"
            )
        if not (self.min_duration_s >= 0 and self.join_gap_s >= 0):
            raise ConfigError(
                f"the minimum duration, {self.min_duration_s} s, and the gap to join, {self.join_gap_s} s, "
                "must not be negative"
            )


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An interval judged `defect`, in seconds from the video's start.

    Attributes:
        start_s, end_s: see the module; `end_s` is where the last sample's interval ends.
        peak_s, peak_score: the sample with the highest score, the earliest of several.
        mean_score: over all `frames` samples from `start_s` to before `end_s`.
    """

    start_s: float
    end_s: float
    peak_s: float
    peak_score: float
    mean_score: float
    frames: int

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


def leave_for(enter: float) -> float:
    """Score below which a finding closes that opened at `enter`: 0.8 logits less, so 0.5 -> 0.31 and 0.9 -> 0.80.

    In logits, because thresholds of operating points may lie near 0 or 1, where a fixed difference would reach too
    far.
    """
    if not 0 < enter < 1:
        return enter
    odds = enter / (1 - enter) * math.exp(-HYSTERESIS_LOGITS)
    return odds / (1 + odds)


def find_findings(times_s: Numbers, scores: Numbers, rules: FindingRules, *, step_s: float) -> tuple[Finding, ...]:
    """Findings in order of time, disjoint; see the module.

    `times_s` [N] rises strictly, `scores` [N] lie in [0, 1], `step_s` is positive; `ValueError` if not.
    """
    times, values = np.asarray(times_s, np.float64), np.asarray(scores, np.float64)
    _check_samples(times, values)
    if not step_s > 0:
        raise ValueError(f"step_s must be positive, got {step_s}")
    ends = _sample_ends(times, step_s)
    joined = _join(_runs(times, values, rules, step_s), times, ends, rules.join_gap_s)
    findings = (_summarise(times, values, ends, first, last) for first, last in joined)
    return tuple(each for each in findings if each.duration_s >= rules.min_duration_s - _TOLERANCE_S)


def _check_samples(times: NDArray[np.float64], scores: NDArray[np.float64]) -> None:
    if times.ndim != 1 or times.shape != scores.shape:
        raise ValueError(f"times_s and scores must be [N] alike, got {times.shape} and {scores.shape}")
    if not (np.isfinite(times).all() and np.all(np.diff(times) > 0)):
        raise ValueError("times_s must be finite and rise strictly")
    if not np.all((scores >= 0) & (scores <= 1)):
        raise ValueError("scores must lie in [0, 1]")


def _sample_ends(times: NDArray[np.float64], step_s: float) -> NDArray[np.float64]:
    """Where the interval that each sample stands for ends, [N]."""
    following = np.append(times[1:], math.inf) if len(times) else times
    return np.minimum(times + step_s, following)


def _runs(
    times: NDArray[np.float64], scores: NDArray[np.float64], rules: FindingRules, step_s: float
) -> Iterator[tuple[int, int]]:
    """First and last sample of each interval that the hysteresis opens."""
    first: int | None = None
    for i in range(len(times)):
        missing = i > 0 and times[i] - times[i - 1] > MISSING_STEPS * step_s
        if first is not None and (missing or scores[i] < rules.leave):
            yield first, i - 1
            first = None
        if first is None and scores[i] >= rules.enter:
            first = i
    if first is not None:
        yield first, len(times) - 1


def _join(
    runs: Iterator[tuple[int, int]], times: NDArray[np.float64], ends: NDArray[np.float64], gap_s: float
) -> Iterator[tuple[int, int]]:
    current: tuple[int, int] | None = None
    for first, last in runs:
        if current is not None and times[first] - ends[current[1]] <= gap_s + _TOLERANCE_S:
            current = (current[0], last)
            continue
        if current is not None:
            yield current
        current = (first, last)
    if current is not None:
        yield current


def _summarise(
    times: NDArray[np.float64], scores: NDArray[np.float64], ends: NDArray[np.float64], first: int, last: int
) -> Finding:
    inside = scores[first : last + 1]
    peak = first + int(np.argmax(inside))
    return Finding(
        start_s=float(times[first]),
        end_s=float(ends[last]),
        peak_s=float(times[peak]),
        peak_score=float(scores[peak]),
        mean_score=float(inside.mean()),
        frames=len(inside),
    )
