"""What is deleted when: uploads and results by the policy, and what killed processes left behind.

Files go before the row that tells of them, so a kill in between leaves a row whose files are deleted once more. All
of it may be done by several workers at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serving.jobs.folder import JobsFolder
from serving.jobs.job import Job
from serving.jobs.store import JobStore


@dataclass(frozen=True, kw_only=True)
class KeepPolicy:
    """How long things are kept.

    Attributes:
        upload_s: an uploaded video, after its job has ended.
        result_s: an ended job with its results; a job that nobody has run in that time fails.
        max_ended: of the ended jobs, at most this many, the latest.
        orphan_s: what no job knows, after its last change: longer than an upload may take.
    """

    upload_s: float
    result_s: float
    max_ended: int
    orphan_s: float


class Cleanup:
    """Deletes what the policy says is to go."""

    def __init__(self, folder: JobsFolder, store: JobStore, policy: KeepPolicy) -> None:
        self._folder = folder
        self._store = store
        self._policy = policy

    def settle(self, now_s: float) -> None:
        """What follows a job's end at once: files of cancelled jobs, uploads that need not be kept."""
        for job in self._store.cancelled_with_files():
            self.remove_files(job.id)
            self._store.note_deleted(job, "files")
        for job in self._store.ended_before(now_s - self._policy.upload_s, with_upload=True):
            remove(self._folder.upload(job.id, job.name).parent)
            self._store.note_deleted(job, "upload")

    def sweep(self, now_s: float) -> None:
        """Everything: also old jobs and their results, and what belongs to no job."""
        self._store.drop_queued_before(
            now_s - self._policy.result_s, "it has waited too long; no service that is running serves its pair"
        )
        self.settle(now_s)
        for job in self._outdated(now_s):
            self.forget(job)
        known = self._store.ids()
        for orphan in self._orphans(now_s):
            if orphan.name not in known:
                remove(orphan)

    def remove_files(self, job_id: str) -> None:
        """Delete all files of a job, or of one that was refused."""
        remove(self._folder.of(job_id))

    def forget(self, job: Job) -> None:
        """Delete an ended job: its files, then its row."""
        self.remove_files(job.id)
        self._store.forget(job.id)

    def _outdated(self, now_s: float) -> list[Job]:
        ended = self._store.ended_before(now_s)
        surplus = len(ended) - self._policy.max_ended
        oldest_s = now_s - self._policy.result_s
        return [job for i, job in enumerate(ended) if i < surplus or (job.ended_s or now_s) <= oldest_s]

    def _orphans(self, now_s: float) -> Iterator[Path]:
        for path in (*self._folder.incoming.iterdir(), *self._folder.files.iterdir()):
            try:
                changed_s = path.stat().st_mtime
            except FileNotFoundError:
                continue
            if changed_s <= now_s - self._policy.orphan_s:
                yield path


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it; one that is gone already is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
