"""The table of video jobs: SQLite in WAL mode, shared by all workers of the service.

Every change is one transaction that takes the write lock first, so no two processes see the same job free. Times
are the system clock's: if it jumps ahead, a job may be taken from a process that still runs it; that one then
finds its claim outdated and stops, so work is repeated but nothing is mixed up.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.errors import ConfigError, JobNotFoundError
from serving.inspections.video_settings import VideoSettings
from serving.jobs.job import JOB_STATES, Job, JobState

_VERSION = 1
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    caller TEXT NOT NULL,
    source TEXT NOT NULL CHECK (source IN ('upload', 'path')),
    name TEXT NOT NULL,
    n_bytes INTEGER NOT NULL,
    pair TEXT NOT NULL,
    pair_version TEXT NOT NULL,
    settings TEXT NOT NULL,
    idempotency_key TEXT,
    fingerprint TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN {JOB_STATES}),
    created_s REAL NOT NULL,
    started_s REAL,
    ended_s REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    claim INTEGER NOT NULL DEFAULT 0,
    lease_until_s REAL,
    cancel INTEGER NOT NULL DEFAULT 0,
    frames INTEGER NOT NULL DEFAULT 0,
    reached_s REAL NOT NULL DEFAULT 0,
    duration_s REAL,
    reason TEXT NOT NULL DEFAULT '',
    summary TEXT,
    kept_bytes INTEGER NOT NULL,
    has_files INTEGER NOT NULL DEFAULT 1,
    has_upload INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS jobs_key ON jobs (caller, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_state ON jobs (state, seq);
"""
_BUSY_S = 10.0


class Table:
    """One process's connection; safe to use from several threads. `clock` gives seconds since 1970."""

    def __init__(self, file: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(file, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._prepare(file)
        except sqlite3.Error as error:
            raise ConfigError(f"{file} cannot be used as the table of video jobs: {error}") from error

    def _prepare(self, file: Path) -> None:
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode = WAL")
        # A job that was accepted must outlive a power cut, not only the end of this process.
        self._connection.execute("PRAGMA synchronous = FULL")
        with self.write() as sql:
            found = sql.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, _VERSION):
                raise ConfigError(
                    f"{file} is of version {found} and this release writes {_VERSION}; "
                    "name another folder in PIPEPROBE_JOBS"
                )
            for statement in _SCHEMA.split(";"):
                sql.execute(statement)
            sql.execute(f"PRAGMA user_version = {_VERSION}")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other process's overlaps."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """For single queries, which see one state of the table each."""
        with self._lock:
            yield self._connection

    def end(self, sql: sqlite3.Connection, job_id: str, state: JobState, reason: str = "") -> None:
        """Inside a transaction: move a job to a state that it will not leave."""
        sql.execute(
            "UPDATE jobs SET state = ?, ended_s = ?, lease_until_s = NULL, reason = ? WHERE id = ?",
            (state, self.clock(), reason, job_id),
        )


def select_job(sql: sqlite3.Connection, job_id: str) -> Job:
    """The job of that id; raises `JobNotFoundError`."""
    row = sql.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise not_found(job_id)
    return job_of(row)


def job_of(row: sqlite3.Row) -> Job:
    """A row as a job."""
    values = dict(row)
    values["settings"] = VideoSettings(**json.loads(values["settings"]))
    values["summary"] = None if values["summary"] is None else json.loads(values["summary"])
    for flag in ("cancel", "has_files", "has_upload"):
        values[flag] = bool(values[flag])
    return Job(**values)


def not_found(job_id: str) -> JobNotFoundError:
    return JobNotFoundError(f"there is no video job {job_id[:40]!r}; it may have been deleted since")
