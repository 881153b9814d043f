"""Takes jobs from the table and sees each through, in a thread and a process of its own.

Each worker of the service has one runner. How many jobs run at a time is decided in the table, so it holds for all
of them together. What the thread of a job does is small: it listens to the process, and with each heartbeat
learns whether to go on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from serving.jobs.child import Child
from serving.jobs.cleanup import Cleanup, remove
from serving.jobs.folder import JobsFolder, sizes
from serving.jobs.job import Job
from serving.jobs.leases import Leases
from serving.jobs.messages import Order
from serving.jobs.metrics import JobMetrics
from serving.jobs.store import JobStore

logger = logging.getLogger(__name__)

_POLL_S = 1.0
_BEAT_S = 0.5
_SWEEP_EVERY_S = 60.0
_STOP_S = 4.0

Outcome = Literal["done", "failed", "cancelled", "crashed", "lost", "released"]


@dataclass(frozen=True, kw_only=True)
class RunnerParts:
    """What a runner works with.

    Attributes:
        pairs: names of the pairs that are there; jobs for others are left to services that have them.
        order: what a job's process is to do.
    """

    store: JobStore
    leases: Leases
    folder: JobsFolder
    cleanup: Cleanup
    metrics: JobMetrics
    max_running: int
    timeout_s: float
    pairs: Callable[[], Collection[str]]
    order: Callable[[Job], Order]


class JobRunner:
    """`start` it once; `stop` ends its processes and gives their jobs back."""

    def __init__(self, parts: RunnerParts, *, clock: Callable[[], float] = time.time) -> None:
        self._parts = parts
        self._clock = clock
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._threads: set[threading.Thread] = set()
        self._loop = threading.Thread(target=self._take_jobs, name="jobs", daemon=True)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        """Return when no process of a job is left."""
        self._stopping.set()
        self._wake.set()
        self._loop.join(_STOP_S)
        for thread in tuple(self._threads):
            thread.join(_STOP_S)

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def _take_jobs(self) -> None:
        swept_s = -_SWEEP_EVERY_S
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                if time.monotonic() - swept_s >= _SWEEP_EVERY_S:
                    swept_s = time.monotonic()
                    self._parts.cleanup.sweep(self._clock())
                self._take_all()
                self._parts.cleanup.settle(self._clock())
                self._parts.metrics.table(self._parts.store.counts(), self._parts.store.kept_bytes())
            except Exception:
                # A disk that is full or a table that is locked for long must not end job-taking for good.
                logger.exception("video jobs cannot be taken now")
            self._wake.wait(_POLL_S)

    def _take_all(self) -> None:
        for lost in self._parts.leases.expire():
            logger.warning("video job %s lost its process; it is %s now", lost.id, lost.state)
        while not self._stopping.is_set():
            job = self._parts.leases.claim(pairs=self._parts.pairs(), max_running=self._parts.max_running)
            if job is None:
                return
            if job.attempts == 1:
                self._parts.metrics.begun(self._clock() - job.created_s)
            thread = threading.Thread(target=self._see_through, args=(job,), name=f"job-{job.id[:8]}", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _see_through(self, job: Job) -> None:
        started_s = time.monotonic()
        outcome: Outcome = "crashed"
        frames = 0
        try:
            outcome, frames = self._run(job)
        except Exception as error:
            logger.exception("video job %s cannot be run", job.id)
            self._parts.leases.give_back(job, f"it could not be run ({type(error).__name__})")
        finally:
            self._parts.metrics.ended(outcome, time.monotonic() - started_s, frames)
            logger.info("video job %s, attempt %d: %s", job.id, job.attempts, outcome)
            if outcome != "done":
                remove(self._parts.folder.claim(job))
            remove(self._parts.folder.log(job))
            self._threads.discard(threading.current_thread())
            self.wake()

    def _run(self, job: Job) -> tuple[Outcome, int]:
        """Start the process and attend to it until it ends or is ended."""
        folder = self._parts.folder
        with Child(self._parts.order(job), folder.log(job)) as child:
            logger.info("video job %s, attempt %d: begun by process %d", job.id, job.attempts, child.pid)
            outcome = self._attend(job, child)
            exit_code, report, words = child.exit_code, child.report, child.last_words()
        leases = self._parts.leases
        if outcome == "cancelled":
            leases.end_cancelled(job)
        elif outcome == "released":
            leases.release(job)
        elif outcome == "failed":
            leases.fail(job, f"it was not done within the {self._parts.timeout_s:g} s allowed")
        elif outcome is None and report.failure is not None:
            outcome = "failed" if leases.fail(job, report.failure) else "lost"
        elif outcome is None and report.summary is not None and exit_code == 0:
            n_bytes = sum(size for _, size in sizes(folder.claim(job)))
            done = leases.finish(job, summary=report.summary, reason=str(report.summary["reason"]), n_bytes=n_bytes)
            outcome = "done" if done else "lost"
        elif outcome is None:
            outcome = "crashed"
            logger.error("video job %s: its process ended with %s:\n%s", job.id, exit_code, words)
            leases.give_back(job, f"its process ended with {_exit_text(exit_code)}")
        return outcome, report.frames

    def _attend(self, job: Job, child: Child) -> Outcome | None:
        """Listen to the process until it ends, then None; or until it is to be ended, then why."""
        until = time.monotonic() + self._parts.timeout_s
        while child.listen(_BEAT_S):
            report = child.report
            answer = self._parts.leases.heartbeat(
                job, frames=report.frames, reached_s=report.reached_s, duration_s=report.duration_s
            )
            if answer == "lost":
                return "lost"
            if answer == "cancel":
                return "cancelled"
            if self._stopping.is_set():
                return "released"
            if time.monotonic() > until:
                return "failed"
        return None


def _exit_text(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
