"""Whole inspections: sent as jobs, followed, their findings fetched. Generators as `exchange` describes them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.client.core import Core
from serving.client.errors import BadAnswerError, ClientError, UnreadableError
from serving.client.exchange import Call, Pause, Reply, Steps, exchange, json_of
from serving.client.retries import retry_after_of

_BASE = "/v1/videos"
_POLL_S, _MAX_POLL_S = 1.0, 30.0
_ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class VideoJob:
    """A job as the service describes it; `progress` is from 0 to 1, None while nobody knows."""

    id: str
    state: str
    frames_done: int
    progress: float | None
    reason: str | None
    pair: str
    pair_version: str

    @property
    def ended(self) -> bool:
        return self.state in _ENDED


@dataclass(frozen=True, kw_only=True)
class VideoFinding:
    """An interval whose frames are judged `defect`: seconds from the video's start, scores of its peak and mean."""

    start_s: float
    end_s: float
    peak_s: float
    score: float
    mean_score: float


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """What was found; `document` is the service's whole `findings.json`."""

    job: VideoJob
    findings: tuple[VideoFinding, ...]
    document: Mapping[str, Any] = field(repr=False, compare=False)


class VideoFailedError(ClientError):
    """The job ended without a result: `job.reason` says why, or it was cancelled."""

    def __init__(self, job: VideoJob) -> None:
        super().__init__(f"video job {job.id} {job.state}: {job.reason or 'no reason given'}")
        self.job = job


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How a video is to be scored; what is None is left to the service."""

    pair: str | None = None
    version: str | None = None
    operating_point: str | None = None
    every_s: float | None = None
    every_m: float | None = None
    repeat_stills: bool | None = None
    min_duration_s: float | None = None
    join_gap_s: float | None = None
    distance: str | None = None

    def params(self) -> dict[str, str]:
        given = {name: value for name, value in vars(self).items() if value is not None}
        return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in given.items()}


VideoProgress = Callable[[VideoJob], None]
"""Told about the job every time that the service was asked."""


def submit_video(core: Core, path: Path, options: VideoOptions, *, upload_s: float) -> Steps[VideoJob]:
    """Upload a video within `upload_s`; its job. The key makes a repeated upload the same job."""
    try:
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UnreadableError(f"{str(path)!r} cannot be read: {error}") from error
    call = Call(
        method="POST",
        path=_BASE,
        params=options.params() | {"name": path.name},
        headers={"content-type": "application/octet-stream", "idempotency-key": uuid.uuid4().hex},
        content=path,
    )
    reply = yield from exchange(call, deadline_s=upload_s, retries=core.retries)
    return _job_of(reply)


def video_job(core: Core, job_id: str) -> Steps[VideoJob]:
    """The job as it is now."""
    return _job_of((yield from _ask(core, "GET", job_id)))


def cancel_video(core: Core, job_id: str) -> Steps[None]:
    """End a job that waits or runs; delete one that has ended, with its results."""
    yield from _ask(core, "DELETE", job_id)


def follow_video(core: Core, job_id: str, progress: VideoProgress | None) -> Steps[VideoResult]:
    """Ask until the job has ended, as often as the service likes; its findings. Raises `VideoFailedError`."""
    while True:
        reply = yield from _ask(core, "GET", job_id)
        job = _job_of(reply)
        if progress is not None:
            progress(job)
        if job.ended:
            break
        wait_s = retry_after_of(reply.headers.get("retry-after"))
        yield Pause(seconds=min(_POLL_S if wait_s is None else wait_s, _MAX_POLL_S))
    if job.state != "done":
        raise VideoFailedError(job)
    document = json_of((yield from _ask(core, "GET", f"{job_id}/result")))
    return VideoResult(job=job, findings=_findings_of(document), document=document)


def _ask(core: Core, method: str, what: str) -> Steps[Reply]:
    call = Call(method=method, path=f"{_BASE}/{what}")
    return (yield from exchange(call, deadline_s=core.deadline_s, retries=core.retries))


def _job_of(reply: Reply) -> VideoJob:
    value = json_of(reply)
    try:
        return VideoJob(
            id=str(value["id"]),
            state=str(value["state"]),
            frames_done=int(value["frames_done"]),
            progress=None if value["progress"] is None else float(value["progress"]),
            reason=value["reason"],
            pair=str(value["pair"]),
            pair_version=str(value["pair_version"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswerError(f"the answer describes no video job as pipeprobe does: {error!r}") from error


def _findings_of(document: Mapping[str, Any]) -> tuple[VideoFinding, ...]:
    try:
        return tuple(
            VideoFinding(
                start_s=float(each["start_s"]),
                end_s=float(each["end_s"]),
                peak_s=float(each["frame_pts_s"]),
                score=float(each["score"]),
                mean_score=float(each["mean_score"]),
            )
            for each in document["findings"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswerError(f"the answer holds no findings as pipeprobe gives them: {error!r}") from error
