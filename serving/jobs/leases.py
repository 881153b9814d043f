"""Taking jobs and keeping them: leases that run out when whoever runs a job is gone.

A taking is known by its number (`Job.claim`). Whoever holds an older one than the row's has lost the job, and can
neither renew nor end it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from typing import Any, Literal

from serving.jobs.job import Job
from serving.jobs.table import Table, job_of, select_job

Heartbeat = Literal["go on", "cancel", "lost"]


class Leases:
    """The changes that only the runner of a job makes. `lease_s` is how long one lasts that is not renewed."""

    def __init__(self, table: Table, *, lease_s: float, max_attempts: int) -> None:
        self._table = table
        self._lease_s = lease_s
        self._max_attempts = max_attempts

    def expire(self) -> list[Job]:
        """Settle running jobs whose lease has run out: queued again, failed after the last attempt, or cancelled."""
        settled = []
        with self._table.write() as sql:
            rows = sql.execute(
                "SELECT * FROM jobs WHERE state = 'running' AND lease_until_s < ?", (self._table.clock(),)
            )
            for job in [job_of(row) for row in rows.fetchall()]:
                self._give_back(sql, job, "the process that ran it was killed, or the machine stopped")
                settled.append(select_job(sql, job.id))
        return settled

    def claim(self, *, pairs: Collection[str], max_running: int) -> Job | None:
        """Take the job that has waited longest, for a pair named in `pairs`, if fewer than `max_running` run."""
        with self._table.write() as sql:
            running = sql.execute("SELECT count(*) FROM jobs WHERE state = 'running'").fetchone()[0]
            marks = ", ".join("?" * len(pairs))
            row = sql.execute(
                f"SELECT id FROM jobs WHERE state = 'queued' AND pair IN ({marks}) ORDER BY seq LIMIT 1", [*pairs]
            ).fetchone()
            if row is None or running >= max_running:
                return None
            now = self._table.clock()
            sql.execute(
                "UPDATE jobs SET state = 'running', claim = claim + 1, attempts = attempts + 1, started_s = ?, "
                "lease_until_s = ?, frames = 0, reached_s = 0, reason = '' WHERE id = ?",
                (now, now + self._lease_s, row["id"]),
            )
            return select_job(sql, row["id"])

    def heartbeat(self, job: Job, *, frames: int, reached_s: float, duration_s: float | None) -> Heartbeat:
        """Renew the lease and say how far the job is; what its runner is to do."""
        with self._table.write() as sql:
            if not _holds(sql, job):
                return "lost"
            sql.execute(
                "UPDATE jobs SET lease_until_s = ?, frames = ?, reached_s = ?, duration_s = ? WHERE id = ?",
                (self._table.clock() + self._lease_s, frames, reached_s, duration_s, job.id),
            )
            return "cancel" if select_job(sql, job.id).cancel else "go on"

    def finish(self, job: Job, *, summary: dict[str, Any], reason: str, n_bytes: int) -> bool:
        """Note that the job is done and its results take `n_bytes`; False if it was cancelled or taken meanwhile."""
        with self._table.write() as sql:
            if not self._may_end(sql, job):
                return False
            self._table.end(sql, job.id, "done", reason=reason)
            sql.execute(
                "UPDATE jobs SET summary = ?, frames = ?, kept_bytes = kept_bytes + ? WHERE id = ?",
                (json.dumps(summary), summary["frames_sampled"], n_bytes, job.id),
            )
            return True

    def fail(self, job: Job, reason: str) -> bool:
        """Note that the job cannot be done; False if it was cancelled or taken meanwhile."""
        with self._table.write() as sql:
            if not self._may_end(sql, job):
                return False
            self._table.end(sql, job.id, "failed", reason=reason)
            return True

    def end_cancelled(self, job: Job) -> None:
        """Note that the work on a job whose end was asked for has stopped."""
        with self._table.write() as sql:
            if _holds(sql, job):
                self._table.end(sql, job.id, "cancelled")

    def give_back(self, job: Job, why: str) -> Job:
        """Queue a job whose process has ended early once more, or fail it after the last attempt; the job as it is."""
        with self._table.write() as sql:
            if _holds(sql, job):
                self._give_back(sql, select_job(sql, job.id), why)
            return select_job(sql, job.id)

    def release(self, job: Job) -> None:
        """Queue a job again without counting the attempt: the service is being stopped in good order."""
        with self._table.write() as sql:
            if self._may_end(sql, job):
                sql.execute(
                    "UPDATE jobs SET state = 'queued', lease_until_s = NULL, attempts = attempts - 1 WHERE id = ?",
                    (job.id,),
                )

    def _may_end(self, sql: sqlite3.Connection, job: Job) -> bool:
        """Whether the job is still this taking's; one whose end was asked for is cancelled, and no longer is."""
        if _holds(sql, job) and select_job(sql, job.id).cancel:
            self._table.end(sql, job.id, "cancelled")
        return _holds(sql, job)

    def _give_back(self, sql: sqlite3.Connection, job: Job, why: str) -> None:
        if job.cancel:
            self._table.end(sql, job.id, "cancelled")
        elif job.attempts >= self._max_attempts:
            self._table.end(sql, job.id, "failed", reason=f"given up after {job.attempts} attempts: {why}")
        else:
            sql.execute("UPDATE jobs SET state = 'queued', lease_until_s = NULL WHERE id = ?", (job.id,))


def _holds(sql: sqlite3.Connection, job: Job) -> bool:
    row = sql.execute("SELECT state, claim FROM jobs WHERE id = ?", (job.id,)).fetchone()
    return row is not None and row["state"] == "running" and row["claim"] == job.claim
