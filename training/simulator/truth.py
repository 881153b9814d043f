"""The ground truth that lies beside a simulated inspection, as `NAME.truth.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.durable import write_json_atomic, write_text_atomic
from training.data.classes import CLASS_CODES
from training.simulator.labels import VISIBLE_SHARE

SCHEMA = "pipeprobe-truth/1"
# A class that is out of sight for no longer than this is still the same finding.
JOIN_GAP_S = 0.6


@dataclass(frozen=True, kw_only=True)
class TrueFinding:
    """An interval in which a class is visible by the label rule; distances are the camera's, along the pipe."""

    code: str
    start_s: float
    end_s: float
    peak_s: float
    start_m: float
    end_m: float
    peak_share: float


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is known of a simulated inspection.

    `track` is (time_s, distance_m), ten a second. `display` is the style of the on-screen display, None if there is
    none, and `illegible` when (start_s, end_s) that cannot be read.
    """

    video: str
    seed: int
    profile: str
    codec: str
    width: int
    height: int
    fps: int
    frames: int
    duration_s: float
    length_m: float
    material: str
    diameter_m: float
    track: tuple[tuple[float, float], ...]
    findings: tuple[TrueFinding, ...]
    display: str | None = None
    illegible: tuple[tuple[float, float], ...] = ()

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json_atomic(path, {"schema": SCHEMA, **asdict(self)})


def write_labels(truths: Sequence[Truth], path: Path) -> None:
    """Write which stretches of the videos are defect and which normal, as the labels file that `retrain` reads."""
    rows = [
        f"{truth.video},{start_s:g},{end_s:g},{label}\n"
        for truth in truths
        for start_s, end_s, label in labelled_stretches(truth)
    ]
    write_text_atomic(path, "".join(["Video,From_s,To_s,Label\n", *rows]))


def labelled_stretches(truth: Truth) -> list[tuple[float, float, str]]:
    """The whole inspection as stretches (start_s, end_s, `defect` or `normal`): defect where any class is in sight."""
    stretches: list[tuple[float, float, str]] = []
    reached_s = 0.0
    for finding in truth.findings:
        if finding.start_s > reached_s:
            stretches.append((reached_s, finding.start_s, "normal"))
        start_s = max(reached_s, finding.start_s)
        if finding.end_s > start_s:
            if stretches and stretches[-1][2] == "defect":
                start_s = stretches.pop()[0]
            stretches.append((start_s, finding.end_s, "defect"))
            reached_s = finding.end_s
    if reached_s < truth.duration_s:
        stretches.append((reached_s, truth.duration_s, "normal"))
    return stretches


def true_findings(
    times_s: NDArray[np.float64], distances_m: NDArray[np.float64], shares: NDArray[np.float64]
) -> tuple[TrueFinding, ...]:
    """The findings of an inspection, by start.

    Args:
        times_s: float64 [T], of the rendered instants, evenly spaced.
        distances_m: float64 [T], where the camera was.
        shares: float64 [T, 17], share of the picture that shows each class.
    """
    found = [
        _finding(code, run, times_s, distances_m, shares[:, k])
        for k, code in enumerate(CLASS_CODES)
        for run in _runs(shares[:, k] >= VISIBLE_SHARE, times_s)
    ]
    return tuple(sorted(found, key=lambda f: (f.start_s, f.code)))


def _runs(visible: NDArray[np.bool_], times_s: NDArray[np.float64]) -> list[Sequence[int]]:
    runs: list[list[int]] = []
    for i in np.flatnonzero(visible):
        if runs and times_s[i] - times_s[runs[-1][-1]] <= JOIN_GAP_S:
            runs[-1].append(int(i))
        else:
            runs.append([int(i)])
    return [range(run[0], run[-1] + 1) for run in runs]


def _finding(
    code: str,
    run: Sequence[int],
    times_s: NDArray[np.float64],
    distances_m: NDArray[np.float64],
    share: NDArray[np.float64],
) -> TrueFinding:
    step_s = float(times_s[1] - times_s[0])
    peak = max(run, key=lambda i: share[i])
    between = distances_m[run[0] : run[-1] + 1]
    return TrueFinding(
        code=code,
        start_s=round(float(times_s[run[0]]), 3),
        end_s=round(float(times_s[run[-1]]) + step_s, 3),
        peak_s=round(float(times_s[peak]), 3),
        start_m=round(float(between.min()), 3),
        end_m=round(float(between.max()), 3),
        peak_share=round(float(share[peak]), 4),
    )
