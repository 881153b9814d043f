"""One video job: what was asked for, and what has become of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from serving.inspections.video_settings import VideoSettings

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
Source = Literal["upload", "path"]

JOB_STATES: tuple[JobState, ...] = get_args(JobState)
ENDED: tuple[JobState, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job that is asked for.

    Attributes:
        id: unguessable, 32 hexadecimal digits.
        caller: name of the API key it came with, empty where none is needed; others do not see the job.
        name: what the video is called towards callers: the uploaded file's name, or the path below the root.
        pair, pair_version: what it is scored with, also if another version is promoted before its turn.
        n_bytes: of the upload; 0 for a path, which takes none of the jobs' space.
        idempotency_key: the caller's name for this request, if it gave one.
        fingerprint: SHA-256 of all that was asked for, to tell a repeated request from another one.
    """

    id: str
    caller: str
    source: Source
    name: str
    n_bytes: int
    pair: str
    pair_version: str
    settings: VideoSettings
    idempotency_key: str | None
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Job(NewJob):
    """A row of the table; times are seconds since 1970, those of what has not happened yet None.

    Attributes:
        seq: order of arrival.
        attempts: how often it was begun and not given back in good order.
        claim: number of the latest taking; whoever has another one has lost the job.
        cancel: whether its end has been asked for.
        frames: scored so far.
        reached_s, duration_s: how far into the video that is, and how long the video says it is.
        reason: why it failed, or what was not scored of it.
        summary: of a job that is done: findings, peak score and counts.
        kept_bytes: what its files take of the jobs' space.
        has_files: whether its folder may still hold anything.
    """

    seq: int
    state: JobState
    created_s: float
    started_s: float | None
    ended_s: float | None
    attempts: int
    claim: int
    lease_until_s: float | None
    cancel: bool
    frames: int
    reached_s: float
    duration_s: float | None
    reason: str
    summary: dict[str, Any] | None
    kept_bytes: int
    has_files: bool
    has_upload: bool

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def progress(self) -> float | None:
        """Share of the video that is scored, in [0, 1]; None while its length is unknown."""
        if self.state == "done":
            return 1.0
        if not self.duration_s:
            return None
        # What a video declares can be wrong, as of recordings glued together; only a done job is at its end.
        return min(0.99, self.reached_s / self.duration_s)
