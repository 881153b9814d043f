"""All that one worker of the service holds: its pairs, their sessions, queues and metrics. Knows no HTTP."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import numpy as np
from numpy.typing import NDArray

from serving.decode_pool import DecodePool
from serving.errors import CallerBusyError, DeadlineExceededError, OverloadedError
from serving.http.loop_lag import LoopLag
from serving.limits import Settings
from serving.monitoring.telemetry import Telemetry, forget_this_worker
from serving.pairs.index_watch import IndexWatch
from serving.pairs.lanes import Lane, Lanes
from serving.pairs.opening import Opener
from serving.pairs.pair import models_root
from serving.scorer import Scorer, Scores


class Engine:
    """Loads, checks and warms up everything; what is built is ready to score.

    Where the settings name no pairs, the default in `models/index.json` is served, and followed.

    Raises what `find_pair`, `Scorer` and `verify_golden` raise: a service that would answer wrongly, or on
    another device than the one asked for, does not start.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry, *, worker: int = 0) -> None:
        self.settings = settings
        self.telemetry = telemetry
        self._pool = DecodePool(settings.pool_threads())
        self._lag = LoopLag()
        self._opener = Opener(
            settings, telemetry, self._pool, worker=worker, on_scored=self._show_shadow, lag=self._lag
        )
        self.lanes = Lanes(self._opener.first_lanes())
        self._watch = self._watch_index()
        self._shadow = self._opener.shadow(is_busy=lambda: self.default.batcher.frames > 0)
        self._tasks: list[asyncio.Task[None]] = []
        self._requests = 0
        self._of_caller: Counter[str] = Counter()
        self._bytes = 0

    def start(self) -> None:
        """Begin scoring, and following the default, on the running event loop."""
        for lane in self.lanes:
            lane.batcher.start()
        self._tasks.append(asyncio.create_task(self._lag.run()))
        if self._shadow is not None:
            self._shadow.start()
        if self._watch is not None:
            self._tasks.append(asyncio.create_task(self._watch.run()))

    async def stop(self) -> None:
        """Finish what is queued, then end all tasks and threads."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._watch is not None:
            await self._watch.finish()
        await asyncio.to_thread(self._end_threads)

    def _end_threads(self) -> None:
        for lane in self.lanes:
            lane.batcher.stop()
        if self._shadow is not None:
            self._shadow.stop()
        self._pool.shutdown()
        forget_this_worker()

    @property
    def default(self) -> Lane:
        """The lane that answers where no pair is named."""
        return self.lanes.default

    @property
    def ready(self) -> bool:
        """Whether every pair's scorer thread runs."""
        return all(lane.batcher.alive for lane in self.lanes)

    @contextmanager
    def request(self, caller: str) -> Iterator[RequestBudget]:
        """Count a scoring request of a caller in, if there is room, and out again with all the bytes it holds."""
        self._check_room(caller)
        budget = RequestBudget(self)
        self._requests += 1
        self._of_caller[caller] += 1
        self.telemetry.in_flight.inc()
        try:
            yield budget
        finally:
            self._requests -= 1
            self._of_caller[caller] -= 1
            if not self._of_caller[caller]:
                del self._of_caller[caller]
            self.telemetry.in_flight.dec()
            self._bytes -= budget.held

    def _check_room(self, caller: str) -> None:
        settings = self.settings
        if 0 < settings.max_caller_requests <= self._of_caller[caller]:
            raise CallerBusyError(
                f"{settings.max_caller_requests} of your requests are being answered, the most that one caller may "
                "have at a time; send the next when one is done",
                retry_after_s=1,
            )
        self._check_requests()

    def check_room_for_one(self) -> None:
        """Raise `OverloadedError` if one more frame for the default pair would be refused, whoever sends it."""
        self._check_requests()
        self.default.batcher.check_room(1, self.settings.deadline_s)

    def _check_requests(self) -> None:
        if self._requests >= self.settings.max_requests:
            raise OverloadedError(
                f"{self.settings.max_requests} requests are being answered, the most allowed; try again later",
                retry_after_s=1,
            )

    def hold(self, n_bytes: int) -> None:
        """Account for bytes of a request's body; `OverloadedError` if all requests together hold too many."""
        if self._bytes + n_bytes > self.settings.max_bytes_held:
            raise OverloadedError("too much data of other requests is being held; try again later", retry_after_s=1)
        self._bytes += n_bytes

    def _watch_index(self) -> IndexWatch | None:
        """What follows the default; None where the settings pin the pairs."""
        settings, metrics = self.settings, self.telemetry.promotions
        metrics.serves(self.default.name, self.default.version)
        if settings.pair or not settings.watch_s:
            return None
        return IndexWatch(
            models_root(),
            self.lanes,
            open_lane=self._opener.lane,
            closed=self._closed,
            metrics=metrics,
            every_s=settings.watch_s,
            keep=settings.keep_versions,
        )

    def _show_shadow(self, scorer: Scorer, frames: NDArray[np.uint8], scores: Scores) -> None:
        if self._shadow is not None and self.default.scorer is scorer:
            self._shadow.offer(scorer.pair.manifest, frames, scores)

    def _closed(self, lane: Lane) -> None:
        # It may have been promoted anew while its first lane was draining.
        if lane.version not in self.lanes.versions(lane.name):
            self.telemetry.withdrawn(lane.name, lane.version)


class RequestBudget:
    """What one request may still use of memory and time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.held = 0

    def grow(self, n_bytes: int) -> None:
        """Account for `n_bytes` more of the request's body; raises as `Engine.hold`."""
        self._engine.hold(n_bytes)
        self.held += n_bytes

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Cancel what is awaited inside, and raise `DeadlineExceededError`, when the time is over."""
        deadline_s = self._engine.settings.deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                yield
        except TimeoutError:
            raise DeadlineExceededError(f"the request was not done within {deadline_s:g} s") from None


def retry_after(error: OverloadedError) -> str:
    """The Retry-After header: whole seconds, at least one."""
    return str(max(1, math.ceil(error.retry_after_s)))
