"""What sits between requests and the scorer: one bounded queue, decoded by a small pool, scored in batches.

    event loop             decode threads              scorer threads
    submit(payload) -----> prepare(payload) ---------> take all that is queued, up to max_batch,
        future <-------------------------------------- score it, hand every frame's result back

A scorer never waits for a batch to fill: alone, a frame is scored at once; under load, frames queue up while
the scorers are busy and the next batch is as large as the load. On a CPU there are then several scorers with one
core each, since the threads of a call that has all cores wait for each other at the end of every layer. Such a call
answers sooner, though: frames that are alone get one. Frames are checked one by one before they meet in a batch, so
nobody's damaged file can fail another's, and a frame whose caller has gone is dropped wherever it is. Shape legend:
S image side, h w evidence map, D feature dimension.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.errors import OverloadedError, PipeprobeError
from serving.frames import Frame
from serving.scorer import Scores
from serving.thread_names import show_name

logger = logging.getLogger(__name__)

Prepare = Callable[[bytes], Frame]
"""A request's bytes to uint8 [S, S, 3]; raises a `PipeprobeError` that tells the sender what is wrong."""

Score = Callable[[NDArray[np.uint8]], Scores]

# Weight of the newest batch in the running estimate of the time per frame.
_NEWEST = 0.2

# Share of its deadline that a frame may be expected to wait. The other half is for what the expectation does not
# know: slower frames ahead, the body that is still to come, a machine that has other work. Whoever is admitted then
# keeps the deadline; a queue that is as long as the deadline would let half of them miss it, for nothing.
_SHARE_OF_DEADLINE = 0.5

# Turns of the event loop that a request takes, at least: its head, its body, its result, its answer.
_TURNS = 4


@dataclass(frozen=True, kw_only=True)
class ScoredFrame:
    """What the scorer says about one frame, and where its time went in seconds.

    `queue_s` is all waiting, for a decoding thread and for the scorer; `infer_s` is the time of the whole
    batch that the frame was part of.
    """

    score: float
    logit: float
    embedding: NDArray[np.float32]
    evidence: NDArray[np.float32]
    decode_s: float
    queue_s: float
    infer_s: float


class Pool(Protocol):
    """Calls functions in threads."""

    def submit(self, function: Callable[[Any], None], argument: Any, /) -> object: ...


class BatchObserver(Protocol):
    """Told about the queue and every batch; called from several threads."""

    def queued(self, n_frames: int) -> None: ...
    def batch(self, n_frames: int) -> None: ...


class _Job:
    """A frame on its way. `future` belongs to the event loop; other threads only read whether it is done."""

    __slots__ = ("decode_s", "decoded_at", "frame", "future", "payload", "prepare", "submitted_at", "waited_s")

    def __init__(self, payload: bytes, prepare: Prepare, future: asyncio.Future[ScoredFrame]) -> None:
        self.payload = payload
        self.prepare = prepare
        self.future = future
        self.frame: Frame | None = None
        self.submitted_at = time.perf_counter()
        self.decoded_at = self.decode_s = self.waited_s = 0.0


class Batcher:
    """The queue in front of one scorer, used from one event loop.

    Args:
        score: scores uint8 [N, S, S, 3]; called from several threads if there are several scorers.
        score_alone: instead of `score` for a batch beside which there is no other frame; None: `score` for all.
        pool: runs `prepare`; may be shared with other batchers and is not shut down here.
        max_batch: most frames in one call of `score`.
        max_frames: most frames between `submit` and their result.
        n_scorers: threads that call `score` at the same time.
        lag_s: by how many seconds the event loop is late, as `serving.http.loop_lag` measures it.
    """

    def __init__(
        self,
        score: Score,
        *,
        score_alone: Score | None = None,
        pool: Pool,
        max_batch: int,
        max_frames: int,
        observer: BatchObserver,
        n_scorers: int = 1,
        lag_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._score = score
        self._score_alone = score_alone or score
        self._pool = pool
        self._max_batch = max_batch
        self._max_frames = max_frames
        self._observer = observer
        self._lag_s = lag_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._frames = 0
        self._s_per_frame = self._ended_at = self._busy_since = 0.0
        self._batch_frames = 1.0
        self._queue: deque[_Job] = deque()
        self._ready = threading.Condition()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, name=f"scorer_{index}", daemon=True) for index in range(n_scorers)
        ]

    def start(self) -> None:
        """Start scoring; call it once, on the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Score what is queued and end the scorer threads."""
        with self._ready:
            self._stopping = True
            self._ready.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    @property
    def alive(self) -> bool:
        """Whether all scorer threads run."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def frames(self) -> int:
        """Frames submitted and neither scored, failed nor cancelled yet."""
        return self._frames

    def check_room(self, n_frames: int, deadline_s: float) -> None:
        """Raise `OverloadedError` if `n_frames` more do not fit or could not be scored within `deadline_s`."""
        wait_s = (self._frames + n_frames) * self._expected_s()
        allowed_s = _SHARE_OF_DEADLINE * deadline_s - _TURNS * self._lag_s()
        if self._frames + n_frames > self._max_frames:
            raise OverloadedError(
                f"{self._frames} frames are queued and {n_frames} more would exceed the limit of "
                f"{self._max_frames}; try again later",
                retry_after_s=wait_s / 2,
            )
        if self._frames and wait_s > allowed_s:
            raise OverloadedError(
                f"{self._frames} frames are queued, too many to score more within the deadline; try again later",
                retry_after_s=wait_s - allowed_s,
            )

    def _expected_s(self) -> float:
        """Seconds that each queued frame takes, as things go: no less than the time for which none has left tells.

        The second part knows at once what the running estimate learns only from the next results: that the first
        ones are slow to come, or that the machine has got other work.
        """
        idle_s = time.perf_counter() - max(self._ended_at, self._busy_since) if self._frames else 0.0
        return max(self._s_per_frame, idle_s / self._batch_frames)

    def submit(self, payload: bytes, prepare: Prepare) -> asyncio.Future[ScoredFrame]:
        """Queue one frame. Cancelling the future takes it out again; `prepare`'s errors come out of it."""
        assert self._loop is not None, "start() comes first"
        future: asyncio.Future[ScoredFrame] = self._loop.create_future()
        job = _Job(payload, prepare, future)
        self._count(+1)
        future.add_done_callback(lambda _: self._leave(job))
        self._pool.submit(self._prepare, job)
        return future

    def _leave(self, job: _Job) -> None:
        job.payload, job.frame = b"", None
        self._count(-1)

    def _count(self, change: int) -> None:
        if not self._frames:
            self._busy_since = time.perf_counter()
        self._frames += change
        self._observer.queued(self._frames)

    def _deliver(self, jobs: Sequence[_Job], results: Sequence[_Result], taken_at: float, infer_s: float) -> None:
        # How fast frames leave while others wait, whatever it is that holds them up: decoding, the session, or other
        # programs. The time in the session alone would promise more than the machine can do.
        busy_since = max(self._ended_at, min(job.submitted_at for job in jobs))
        ended_at = taken_at + infer_s
        s_per_frame = max(0.0, ended_at - busy_since) / len(jobs)
        self._s_per_frame += (_NEWEST if self._s_per_frame else 1.0) * (s_per_frame - self._s_per_frame)
        self._batch_frames += _NEWEST * (len(jobs) - self._batch_frames)
        self._ended_at = max(self._ended_at, ended_at)
        for job, result in zip(jobs, results, strict=True):
            if not job.future.done():
                _resolve(job, result, taken_at, infer_s)

    # In a thread of the pool.
    def _prepare(self, job: _Job) -> None:
        if job.future.done():
            return
        started = time.perf_counter()
        job.waited_s = started - job.submitted_at
        try:
            frame = job.prepare(job.payload)
        except PipeprobeError as error:
            self._call(_fail, job.future, error)
            return
        except Exception:
            logger.exception("a frame could not be prepared")
            self._call(_fail, job.future, _internal_error())
            return
        job.decoded_at = time.perf_counter()
        job.decode_s = job.decoded_at - started
        with self._ready:
            job.frame = frame
            self._queue.append(job)
            self._ready.notify()

    # In the scorer threads.
    def _run(self) -> None:
        show_name()
        while jobs := self._take():
            taken_at = time.perf_counter()
            # Read from another thread, it may be late by a frame: then a batch takes longer, or more of the cores.
            score = self._score_alone if self._frames <= len(jobs) else self._score
            results = _score_each(score, [frame for _, frame in jobs])
            infer_s = time.perf_counter() - taken_at
            self._observer.batch(len(jobs))
            self._call(self._deliver, [job for job, _ in jobs], results, taken_at, infer_s)

    def _take(self) -> list[tuple[_Job, Frame]]:
        """The next batch, waiting for its first frame; empty when stopped."""
        with self._ready:
            while True:
                jobs: list[tuple[_Job, Frame]] = []
                while self._queue and len(jobs) < self._max_batch:
                    job = self._queue.popleft()
                    frame = job.frame
                    if frame is not None and not job.future.done():
                        jobs.append((job, frame))
                if jobs or self._stopping:
                    return jobs
                self._ready.wait()

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        """Call on the event loop, unless that has ended, when nobody waits for the results any more."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            logger.warning("the event loop ended before its frames were scored")


_Result = tuple[float, float, NDArray[np.float32], NDArray[np.float32]] | None


def _score_each(score: Score, frames: list[Frame]) -> list[_Result]:
    """One result per frame. If a batch fails, its frames are tried alone, so that one cannot fail others."""
    try:
        return _split(score(np.stack(frames)))
    except Exception:
        logger.exception("a batch of %d frames could not be scored", len(frames))
        if len(frames) == 1:
            return [None]
    return [_score_each(score, [frame])[0] for frame in frames]


def _split(scores: Scores) -> list[_Result]:
    return list(zip(scores.score.tolist(), scores.logit.tolist(), scores.embedding, scores.evidence, strict=True))


def _resolve(job: _Job, result: _Result, taken_at: float, infer_s: float) -> None:
    if result is None:
        job.future.set_exception(_internal_error())
        return
    score, logit, embedding, evidence = result
    job.future.set_result(
        ScoredFrame(
            score=score,
            logit=logit,
            embedding=embedding,
            evidence=evidence,
            decode_s=job.decode_s,
            queue_s=job.waited_s + taken_at - job.decoded_at,
            infer_s=infer_s,
        )
    )


def _fail(future: asyncio.Future[ScoredFrame], error: PipeprobeError) -> None:
    if not future.done():
        future.set_exception(error)


def _internal_error() -> PipeprobeError:
    return PipeprobeError("the frame could not be scored; the service's log says why")
