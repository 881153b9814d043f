"""What the routes ask for, and the opening of all that video jobs need; knows no HTTP but an upload's request."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from starlette.requests import Request

from serving.engine import Engine
from serving.errors import ConfigError, JobsOffError, OverloadedError, RequestError
from serving.inspections.video_settings import VideoSettings
from serving.jobs.cleanup import Cleanup, KeepPolicy
from serving.jobs.folder import OFF, JobsFolder, default_folder
from serving.jobs.job import Job, NewJob, Source
from serving.jobs.leases import Leases
from serving.jobs.messages import Order
from serving.jobs.metrics import JobMetrics
from serving.jobs.runner import JobRunner, RunnerParts
from serving.jobs.store import JobStore, too_many_jobs
from serving.jobs.table import Table
from serving.jobs.uploads import Received, UploadLimits, receive_video
from serving.jobs.video_root import plain_path, resolve_video
from serving.limits import Settings
from serving.pairs.pair import models_root
from serving.pairs.pair_index import pair_folders

logger = logging.getLogger(__name__)

_HOUR_S = 3600.0
_LOOK_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a caller asks for besides the video; that version of the pair is served and has the operating point."""

    caller: str
    pair: str
    pair_version: str
    settings: VideoSettings
    idempotency_key: str | None


class JobDesk:
    """All that one worker of the service has for video jobs."""

    def __init__(self, settings: Settings, folder: JobsFolder, engine: Engine) -> None:
        self.settings = settings
        self.folder = folder
        self._table = Table(folder.table)
        self.store = JobStore(self._table)
        self.cleanup = Cleanup(folder, self.store, _policy(settings))
        self._device = engine.default.scorer.device
        self._uploads = 0
        self.runner = JobRunner(
            RunnerParts(
                store=self.store,
                leases=Leases(self._table, lease_s=settings.job_lease_s, max_attempts=settings.job_attempts),
                folder=folder,
                cleanup=self.cleanup,
                metrics=JobMetrics(engine.telemetry.registry),
                max_running=settings.jobs_running,
                timeout_s=settings.job_timeout_s,
                pairs=_pair_names,
                order=self._order,
            )
        )

    def start(self) -> None:
        self.runner.start()

    def stop(self) -> None:
        self.runner.stop()
        self._table.close()

    @asynccontextmanager
    async def receive(self, request: Request, job_id: str, name: str) -> AsyncIterator[Received]:
        """An upload on the disk; deleted on leaving, unless `submit_upload` has taken it. Raises as `receive_video`."""
        if self._uploads >= self.settings.max_uploads:
            raise OverloadedError(
                f"{self._uploads} videos are being uploaded, the most allowed; try again later", retry_after_s=5
            )
        limits = UploadLimits(
            max_bytes=self.settings.max_video_bytes,
            timeout_s=self.settings.upload_timeout_s,
            stall_s=self.settings.deadline_s,
        )
        self._uploads += 1
        try:
            path = self.folder.incoming / job_id
            async with receive_video(request, path, limits, self._check_room, name=name) as received:
                yield received
        finally:
            self._uploads -= 1

    def check_may_submit(self, wish: Wish) -> None:
        """Raise `TooManyJobsError` before a video is sent in vain; a repeated request is let through."""
        if wish.idempotency_key and self.store.by_key(wish.caller, wish.idempotency_key):
            return
        counts = self.store.counts()
        waiting = counts["queued"] + counts["running"]
        if waiting >= self.settings.max_jobs:
            raise too_many_jobs(waiting)

    def submit_upload(self, job_id: str, received: Received, wish: Wish) -> tuple[Job, bool]:
        """Queue an uploaded video; the job, and whether it is new. Raises as `JobStore.add`."""
        target = self.folder.upload(job_id, received.name)
        target.parent.mkdir(parents=True, mode=0o700)
        received.path.rename(target)
        is_new = False
        try:
            job, is_new = self._add(_new_job(job_id, wish, "upload", received.name, received.n_bytes, received.sha256))
        finally:
            if not is_new:
                self.cleanup.remove_files(job_id)
        return job, is_new

    def submit_path(self, job_id: str, path: object, wish: Wish) -> tuple[Job, bool]:
        """Queue a video of the service's own folder. Raises `RequestError`, `VideoError` and as `JobStore.add`."""
        if not self.settings.video_root:
            raise RequestError("this service takes no paths, since PIPEPROBE_VIDEO_ROOT is not set; upload the video")
        plain = plain_path(path)
        resolve_video(Path(self.settings.video_root), plain)
        return self._add(_new_job(job_id, wish, "path", plain, 0, ""))

    def cancel(self, job: Job, *, wait_s: float) -> Job:
        """End the job; returns when its process is gone and its files are deleted, or after `wait_s`."""
        until = time.monotonic() + wait_s
        job = self.store.cancel(job.id)
        self.runner.wake()
        while (not job.ended or job.has_files) and time.monotonic() < until:
            time.sleep(_LOOK_S)
            job = self.store.get(job.id)
        return job

    def _add(self, new: NewJob) -> tuple[Job, bool]:
        job, is_new = self.store.add(new, max_waiting=self.settings.max_jobs)
        self.runner.wake()
        return job, is_new

    def _check_room(self, n_bytes: int) -> None:
        kept = self.store.kept_bytes() + self.folder.incoming_bytes()
        self.folder.check_room(
            n_bytes, kept=kept, max_kept=self.settings.max_jobs_bytes, min_free=self.settings.min_free_bytes
        )

    def _order(self, job: Job) -> Order:
        root = Path(self.settings.video_root).resolve() if job.source == "path" else None
        return Order(
            video=root / job.name if root else self.folder.upload(job.id, job.name),
            root=root,
            shown=job.name,
            out=self.folder.claim(job),
            models=models_root().resolve(),
            pair=f"{job.pair}@{job.pair_version}",
            variant=self.settings.variant or None,
            device=self._device,
            threads=self.settings.job_threads,
            nice=self.settings.job_nice,
            hang_s=self.settings.job_hang_s,
            settings=job.settings,
        )


@dataclass(frozen=True)
class NoDesk:
    """In its place where there are no video jobs, for a reason that is said to whoever asks for one."""

    reason: str

    def start(self) -> None:
        """There is nothing to start."""

    def stop(self) -> None:
        """There is nothing to stop."""

    def refuse(self) -> JobsOffError:
        return JobsOffError(self.reason)


def open_desk(settings: Settings, engine: Engine) -> JobDesk | NoDesk:
    """The desk that the settings ask for.

    A folder that is named and cannot be used is a `ConfigError`. Where the default one cannot be, as in a container
    without a home, frames are scored all the same and there are no jobs.
    """
    if settings.jobs.lower() == OFF:
        return NoDesk("this service takes no video jobs: PIPEPROBE_JOBS is off")
    check_folders(settings)
    if settings.jobs:
        return JobDesk(settings, JobsFolder.open(Path(settings.jobs)), engine)
    try:
        return JobDesk(settings, JobsFolder.open(default_folder()), engine)
    except ConfigError as error:
        logger.warning("there are no video jobs: %s", error)
        return NoDesk("this service takes no video jobs: it has no folder for them; PIPEPROBE_JOBS names one")


def check_folders(settings: Settings) -> None:
    """Raise `ConfigError` if a folder that the settings name cannot be used."""
    if settings.jobs.lower() == OFF:
        return
    if settings.jobs:
        JobsFolder.open(Path(settings.jobs))
    if settings.video_root and not Path(settings.video_root).is_dir():
        raise ConfigError(
            f"PIPEPROBE_VIDEO_ROOT={settings.video_root} is no folder; name the one that holds the videos"
        )


def new_id() -> str:
    return secrets.token_hex(16)


def _pair_names() -> set[str]:
    return {folder.partition("@")[0] for folder in pair_folders(models_root())}


def _policy(settings: Settings) -> KeepPolicy:
    return KeepPolicy(
        upload_s=settings.keep_upload_h * _HOUR_S,
        result_s=settings.keep_result_h * _HOUR_S,
        max_ended=settings.max_jobs_kept,
        orphan_s=settings.upload_timeout_s + _HOUR_S,
    )


def _new_job(job_id: str, wish: Wish, source: Source, name: str, n_bytes: int, sha256: str) -> NewJob:
    asked = [source, name, n_bytes, sha256, wish.pair, wish.pair_version, asdict(wish.settings)]
    return NewJob(
        id=job_id,
        caller=wish.caller,
        source=source,
        name=name,
        n_bytes=n_bytes,
        pair=wish.pair,
        pair_version=wish.pair_version,
        settings=wish.settings,
        idempotency_key=wish.idempotency_key,
        fingerprint=hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
    )
