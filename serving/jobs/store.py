"""What callers and the cleanup do with the table of jobs; `serving.jobs.leases` is what those do who run them."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from typing import Literal

from serving.errors import IdempotencyError, TooManyJobsError
from serving.jobs.job import ENDED, JOB_STATES, Job, JobState, NewJob
from serving.jobs.table import Table, job_of, not_found, select_job

_RETRY_S = 10.0


class JobStore:
    """Jobs to add, look up, cancel, count and forget."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def add(self, new: NewJob, *, max_waiting: int) -> tuple[Job, bool]:
        """Queue a job; the job, and whether it is new.

        It is not if the same caller has used its idempotency key before, for the same request; for another one,
        `IdempotencyError`. Raises `TooManyJobsError` if `max_waiting` jobs are queued or running.
        """
        with self._table.write() as sql:
            known = _known(sql, new)
            if known is not None:
                return known, False
            waiting = sql.execute("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')").fetchone()[0]
            if waiting >= max_waiting:
                raise too_many_jobs(waiting)
            values = asdict(new) | {
                "settings": json.dumps(asdict(new.settings)),
                "created_s": self._table.clock(),
                "kept_bytes": new.n_bytes,
                "has_upload": new.source == "upload",
            }
            marks = ", ".join(f":{name}" for name in values)
            sql.execute(f"INSERT INTO jobs ({', '.join(values)}) VALUES ({marks})", values)
            return select_job(sql, new.id), True

    def get(self, job_id: str, caller: str | None = None) -> Job:
        """The job, of that caller unless that is None; `JobNotFoundError` if there is none."""
        with self._table.read() as sql:
            job = select_job(sql, job_id)
        if caller is not None and job.caller != caller:
            raise not_found(job_id)
        return job

    def by_key(self, caller: str, key: str) -> Job | None:
        """The caller's job of that idempotency key."""
        with self._table.read() as sql:
            row = sql.execute("SELECT * FROM jobs WHERE caller = ? AND idempotency_key = ?", (caller, key)).fetchone()
        return None if row is None else job_of(row)

    def page(self, caller: str, *, state: JobState | None, before: int | None, limit: int) -> list[Job]:
        """Up to `limit` of the caller's jobs, the latest first, that arrived before the one numbered `before`."""
        with self._table.read() as sql:
            rows = sql.execute(
                "SELECT * FROM jobs WHERE caller = :caller AND (:state IS NULL OR state = :state) "
                "AND (:before IS NULL OR seq < :before) ORDER BY seq DESC LIMIT :limit",
                {"caller": caller, "state": state, "before": before, "limit": limit},
            ).fetchall()
        return [job_of(row) for row in rows]

    def cancel(self, job_id: str) -> Job:
        """End a queued job at once, and ask whoever runs a running one to end it."""
        with self._table.write() as sql:
            job = select_job(sql, job_id)
            if job.state == "queued":
                self._table.end(sql, job_id, "cancelled")
            elif job.state == "running":
                sql.execute("UPDATE jobs SET cancel = 1 WHERE id = ?", (job_id,))
            return select_job(sql, job_id)

    def forget(self, job_id: str) -> None:
        """Drop the row of a job that has ended."""
        with self._table.write() as sql:
            sql.execute(f"DELETE FROM jobs WHERE id = ? AND state IN {ENDED}", (job_id,))

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        with self._table.read() as sql:
            found = dict(sql.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
        return {state: found.get(state, 0) for state in JOB_STATES}

    def kept_bytes(self) -> int:
        """What the files of all jobs take."""
        with self._table.read() as sql:
            return int(sql.execute("SELECT coalesce(sum(kept_bytes), 0) FROM jobs").fetchone()[0])

    def ids(self) -> set[str]:
        with self._table.read() as sql:
            return {row["id"] for row in sql.execute("SELECT id FROM jobs")}

    def cancelled_with_files(self) -> list[Job]:
        """Cancelled jobs whose folder may still hold something."""
        with self._table.read() as sql:
            rows = sql.execute("SELECT * FROM jobs WHERE state = 'cancelled' AND has_files")
            return [job_of(row) for row in rows.fetchall()]

    def ended_before(self, time_s: float, *, with_upload: bool = False) -> list[Job]:
        """Jobs that had ended by then, the earliest first; only those that still have their upload, if asked for."""
        with self._table.read() as sql:
            rows = sql.execute(
                "SELECT * FROM jobs WHERE ended_s <= ? AND has_upload >= ? ORDER BY ended_s", (time_s, with_upload)
            )
            return [job_of(row) for row in rows.fetchall()]

    def drop_queued_before(self, time_s: float, reason: str) -> None:
        """Fail the jobs that have waited since before then."""
        with self._table.write() as sql:
            rows = sql.execute("SELECT id FROM jobs WHERE state = 'queued' AND created_s <= ?", (time_s,)).fetchall()
            for row in rows:
                self._table.end(sql, row["id"], "failed", reason=reason)

    def note_deleted(self, job: Job, what: Literal["files", "upload"]) -> None:
        """Note that the job's upload, or all its files, are gone."""
        with self._table.write() as sql:
            if what == "files":
                sql.execute("UPDATE jobs SET has_files = 0, has_upload = 0, kept_bytes = 0 WHERE id = ?", (job.id,))
            else:
                sql.execute(
                    "UPDATE jobs SET has_upload = 0, kept_bytes = kept_bytes - n_bytes WHERE id = ? AND has_upload",
                    (job.id,),
                )


def too_many_jobs(waiting: int) -> TooManyJobsError:
    return TooManyJobsError(
        f"{waiting} video jobs wait or run, the most allowed; try again later", retry_after_s=_RETRY_S
    )


def _known(sql: sqlite3.Connection, new: NewJob) -> Job | None:
    if new.idempotency_key is None:
        return None
    row = sql.execute(
        "SELECT * FROM jobs WHERE caller = ? AND idempotency_key = ?", (new.caller, new.idempotency_key)
    ).fetchone()
    if row is None:
        return None
    if row["fingerprint"] != new.fingerprint:
        raise IdempotencyError(
            f"this Idempotency-Key was used for job {row['id']}, which asked for something else; use a new key"
        )
    return job_of(row)
