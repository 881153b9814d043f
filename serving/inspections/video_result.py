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
        complete: whether no stretch of it went unscored, or was lost; what did is in `reason`.
        frames_scored, frames_still, frames_between: of those sampled, which they add up to.
        spacing_m, longest_gap_m: see `serving.inspections.spacing`.
        lost: the stretches that went down with a decoder, for people, and `lost_s` the seconds in them.
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
    frames_scored: int = 0
    frames_still: int = 0
    frames_between: int = 0
    frames_skipped: int = 0
    frames_corrupt: int = 0
    frames_lost: int = 0
    lost_s: float = 0.0
    lost: str = ""
    strategy: str = ""
    spacing_m: float | None = None
    longest_gap_m: float | None = None
    seconds_taken: float = 0.0
    video_sha256: str = ""
    reason: str = ""


def result_of(
    video: str, folder: Path, status: Status, document: Mapping[str, Any], *, seconds_taken: float = 0.0
) -> VideoResult:
    """The result of a video whose `findings.json` is `document`."""
    reading, sampling, missing = document["reading"], document["sampling"], missing_text(document)
    return VideoResult(
        video=video,
        status=status,
        folder=folder,
        complete=not missing,
        findings=len(document["findings"]),
        peak_score=document["peak_score"],
        duration_s=document["duration_s"],
        frames=reading["pictures"],
        frames_decoded=reading["decoded"],
        frames_sampled=reading["sampled"],
        frames_scored=sampling["scored"],
        frames_still=sampling["still"],
        frames_between=sampling["between"],
        frames_skipped=reading["skipped"],
        frames_corrupt=reading["corrupt"],
        frames_lost=reading["lost"],
        lost_s=seconds_in(lost_stretches(document)),
        lost=spans_text(lost_stretches(document)),
        strategy=reading["strategy"],
        spacing_m=sampling["spacing_m"],
        longest_gap_m=sampling["longest_gap_m"],
        seconds_taken=seconds_taken,
        video_sha256=document["video_sha256"],
        reason=missing,
    )


def missing_text(document: Mapping[str, Any]) -> str:
    """What is missing of the video of a `findings.json`, for people; empty if it was scored from start to end."""
    missing = {"not scored": document["unscored"], "lost with its decoder": lost_stretches(document)}
    return "; ".join(f"{how}: {spans_text(stretches)}" for how, stretches in missing.items() if stretches)


def lost_stretches(document: Mapping[str, Any]) -> list[dict[str, float]]:
    """What went down with a decoder of the video of a `findings.json`; those of earlier releases do not say."""
    stretches: list[dict[str, float]] = document["reading"].get("lost_stretches", [])
    return stretches


def seconds_in(stretches: Iterable[Mapping[str, float]]) -> float:
    """How long they are together."""
    return round(sum(each["end_s"] - each["start_s"] for each in stretches), 3)


def spans_text(stretches: Iterable[Mapping[str, float]]) -> str:
    """When stretches of a video are, for people; empty if there are none."""
    return ", ".join(f"{clock_time(each['start_s'])} to {clock_time(each['end_s'])}" for each in stretches)
