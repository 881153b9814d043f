"""From scores over time to findings. Pure: knows neither videos nor pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from serving.errors import ConfigError

# How far below the threshold, in logits, a score may fall before a finding ends.
HYSTERESIS_LOGITS = 0.8


@dataclass(frozen=True, kw_only=True)
class FindingRules:
    """When scores make a finding.

    `enter` opens one, it lasts while scores stay at or above `leave`; findings shorter than `min_duration_s` are
    dropped, after those no more than `join_gap_s` apart have been joined.
    """

    enter: float
    leave: float
    min_duration_s: float = 1.0
    join_gap_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.leave <= self.enter <= 1:
            raise ConfigError(
                f"a finding opens at {self.enter} and closes below {self.leave}: need 0 <= leave <= enter <= 1"
            )
        if self.min_duration_s < 0 or self.join_gap_s < 0:
            raise ConfigError("durations of findings are seconds, 0 or more")


def leave_for(enter: float) -> float:
    """The score below which a finding that opened at `enter` ends: HYSTERESIS_LOGITS lower on the logit scale."""
    if not 0 < enter < 1:
        return enter
    return 1 / (1 + math.exp(-(math.log(enter / (1 - enter)) - HYSTERESIS_LOGITS)))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An interval of an inspection whose frames are judged defect, with its highest score. Times in seconds."""

    start_s: float
    end_s: float
    peak_s: float
    peak_score: float
    mean_score: float
    frames: int


def find_findings(
    times_s: Sequence[float], scores: Sequence[float], rules: FindingRules, *, step_s: float
) -> tuple[Finding, ...]:
    """The findings of one inspection, in order, disjoint.

    Args:
        times_s: times of the sampled frames, ascending.
        scores: their scores, in [0, 1].
        step_s: distance between samples; a frame stands for half a step before and after it, and a gap in the samples
            of more than 1.5 steps ends a run.
    """
    if len(times_s) != len(scores):
        raise ValueError(f"{len(times_s)} times, but {len(scores)} scores")
    if any(b <= a for a, b in pairwise(times_s)):
        raise ValueError("times must ascend")
    runs = [run for run in _runs(times_s, scores, rules, step_s) if max(scores[i] for i in run) >= rules.enter]
    joined: list[list[int]] = []
    for run in runs:
        gap_s = times_s[run[0]] - times_s[joined[-1][-1]] - step_s if joined else math.inf
        if gap_s <= rules.join_gap_s:
            joined[-1] += run
        else:
            joined.append(run)
    findings = (_finding(run, times_s, scores, step_s) for run in joined)
    return tuple(f for f in findings if f.end_s - f.start_s >= rules.min_duration_s)


def _runs(times_s: Sequence[float], scores: Sequence[float], rules: FindingRules, step_s: float) -> list[list[int]]:
    """Maximal runs of consecutive samples that stay at or above `leave`."""
    runs: list[list[int]] = []
    for i, score in enumerate(scores):
        if score < rules.leave:
            continue
        if runs and runs[-1][-1] == i - 1 and times_s[i] - times_s[i - 1] <= 1.5 * step_s:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def _finding(run: list[int], times_s: Sequence[float], scores: Sequence[float], step_s: float) -> Finding:
    peak = max(run, key=lambda i: scores[i])
    return Finding(
        start_s=max(0.0, times_s[run[0]] - step_s / 2),
        end_s=times_s[run[-1]] + step_s / 2,
        peak_s=times_s[peak],
        peak_score=scores[peak],
        mean_score=sum(scores[i] for i in run) / len(run),
        frames=len(run),
    )
