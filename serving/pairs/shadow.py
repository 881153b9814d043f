"""Shadow mode: a candidate scores the live frames beside the default pair, and how far they agree is exported.

    scorer thread of the default pair            shadow thread, at the lowest priority
    score(frames), then offer(frames) ---------> takes the oldest frames, scores them, counts verdicts
        never waits: a full queue drops          and differences of score against the default's

The frames are those that the default pair scored, decoded once. Nothing here can delay or fail an answer: what
does not fit into the queue is dropped and counted, the candidate computes in one thread that gives way to all
others, and while live frames wait it rests nine times as long as it works. Only the candidate's own verdicts are
compared, each pair's at its own default operating point.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.shadow_metrics import ShadowMetrics
from serving.pairs.manifest import Manifest
from serving.scorer import Scores

logger = logging.getLogger(__name__)

_REST = 9
_LOWEST_PRIORITY = 19

Batch = tuple[Manifest, NDArray[np.uint8], NDArray[np.float32]]


class Shadow:
    """One worker's shadow.

    Args:
        candidate: the manifest of the pair that `score` belongs to.
        score: scores uint8 [N, S, S, 3]; called from the shadow thread alone.
        is_busy: whether live frames wait.
        max_frames: most frames in the queue.
    """

    def __init__(
        self,
        candidate: Manifest,
        score: Callable[[NDArray[np.uint8]], Scores],
        *,
        is_busy: Callable[[], bool],
        max_frames: int,
        metrics: ShadowMetrics,
    ) -> None:
        self._candidate = candidate
        self._score = score
        self._is_busy = is_busy
        self._max_frames = max_frames
        self._metrics = metrics
        self._queue: deque[Batch] = deque()
        self._frames = 0
        self._ready = threading.Condition()
        self._stopping = threading.Event()
        self._has_failed = False
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Begin scoring what is offered."""
        self._thread.start()

    def stop(self) -> None:
        """Drop what is queued and end the thread."""
        self._stopping.set()
        with self._ready:
            self._ready.notify()
        if self._thread.is_alive():
            self._thread.join()

    def offer(self, live: Manifest, frames: NDArray[np.uint8], scores: Scores) -> None:
        """Queue frames that the pair `live` has scored, uint8 [N, S, S, 3], which nobody may change afterwards.

        Never waits and never raises: what does not fit is dropped.
        """
        n = len(frames)
        if live.image_size != self._candidate.image_size:
            self._metrics.dropped("image-size", n)
            return
        with self._ready:
            fits = self._frames + n <= self._max_frames
            if fits:
                self._queue.append((live, frames, scores.score))
                self._frames += n
                self._ready.notify()
        if not fits:
            self._metrics.dropped("queue-full", n)

    # In the shadow thread.
    def _run(self) -> None:
        give_way()
        while (batch := self._take()) is not None:
            started = time.perf_counter()
            self._compare(*batch)
            if self._is_busy():
                self._stopping.wait(_REST * (time.perf_counter() - started))

    def _take(self) -> Batch | None:
        """The oldest batch, waiting for one; None when stopped."""
        with self._ready:
            while not self._queue and not self._stopping.is_set():
                self._ready.wait()
            if self._stopping.is_set():
                return None
            batch = self._queue.popleft()
            self._frames -= len(batch[1])
            return batch

    def _compare(self, live: Manifest, frames: NDArray[np.uint8], live_scores: NDArray[np.float32]) -> None:
        try:
            scores = self._score(frames).score
        except Exception:
            self._metrics.dropped("failed", len(frames))
            if not self._has_failed:
                logger.exception("the shadow %s %s failed", self._candidate.name, self._candidate.version)
            self._has_failed = True
            return
        threshold, live_threshold = (one.operating_point().threshold for one in (self._candidate, live))
        for score, live_score in zip(scores.tolist(), live_scores.tolist(), strict=True):
            verdict = "defect" if score >= threshold else "normal"
            agrees = (score >= threshold) == (live_score >= live_threshold)
            self._metrics.compared(live, verdict, agrees=agrees, difference=abs(score - live_score))


def give_way() -> None:
    """Let every other thread of the machine go first, where the system can say so of a single thread."""
    # On Linux a thread's id stands for the thread alone.
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
