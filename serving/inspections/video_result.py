"""What became of one video of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serving.formats.observation import clock_time

Status = Literal["scored", "kept", "failed"]


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """What became of one video: a row of the summary.

    Attributes:
        status: `scored`, `kept` (it was done before) or `failed`, for the `reason`.
        complete: whether no stretch of it went unscored; what did is in `reason`.
        seconds_taken: for decoding and scoring, now; 0 if it was kept.
        video_sha256: empty if it cannot be read.
    """

    video: str
    status: Status
    folder: Path
    complete: bool = False
    findings: int = 0
    peak_score: float | None = None
    duration_s: float | None = None
    frames: int = 0
    frames_decoded: int = 0
    frames_sampled: int = 0
    frames_skipped: int = 0
    frames_corrupt: int = 0
    strategy: str = ""
    seconds_taken: float = 0.0
    video_sha256: str = ""
    reason: str = ""


def result_of(
    video: Path, folder: Path, status: Status, document: Mapping[str, Any], *, seconds_taken: float = 0.0
) -> VideoResult:
    """The result of a video whose `findings.json` is `document`."""
    reading, unscored = document["reading"], unscored_text(document["unscored"])
    return VideoResult(
        video=str(video),
        status=status,
        folder=folder,
        complete=not unscored,
        findings=len(document["findings"]),
        peak_score=document["peak_score"],
        duration_s=document["duration_s"],
        frames=reading["pictures"],
        frames_decoded=reading["decoded"],
        frames_sampled=reading["sampled"],
        frames_skipped=reading["skipped"],
        frames_corrupt=reading["corrupt"],
        strategy=reading["strategy"],
        seconds_taken=seconds_taken,
        video_sha256=document["video_sha256"],
        reason=f"not scored: {unscored}" if unscored else "",
    )


def unscored_text(stretches: Iterable[Mapping[str, float]]) -> str:
    """Stretches that nothing was scored of, for people; empty if there are none."""
    return ", ".join(f"{clock_time(each['start_s'])} to {clock_time(each['end_s'])}" for each in stretches)
