"""All that one worker of the service holds: its pairs, their sessions, queues and metrics. Knows no HTTP."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import numpy as np
from numpy.typing import NDArray

from serving.batching import Batcher
from serving.decode_pool import DecodePool
from serving.drift_hook import watched_score
from serving.errors import (
    CallerBusyError,
    ConfigError,
    DeadlineExceededError,
    OverloadedError,
    PairError,
    PipeprobeError,
)
from serving.frames import Frame, decode_bytes
from serving.golden import verify_golden
from serving.index_watch import IndexWatch
from serving.lanes import Lane, Lanes
from serving.limits import Settings
from serving.pair import Pair, find_pair, load_folder, models_root
from serving.pair_index import read_index
from serving.scorer import Scorer, Scores
from serving.shadow import Shadow
from serving.telemetry import Telemetry, forget_this_worker

logger = logging.getLogger(__name__)


def find_shadow(settings: Settings) -> Pair | None:
    """The pair in shadow mode, checked file by file; `ConfigError` if it takes other frames than the default."""
    if not settings.shadow:
        return None
    shadow, default = find_pair(models_root(), settings.shadow), find_pairs(settings)[0]
    if shadow.manifest.image_size != default.manifest.image_size:
        raise ConfigError(
            f"PIPEPROBE_SHADOW={settings.shadow} takes frames of {shadow.manifest.image_size} pixels, the default pair "
            f"{default.name} of {default.manifest.image_size}: the shadow scores the same frames; name another"
        )
    return shadow


def find_pairs(settings: Settings) -> list[Pair]:
    """The pairs that the settings name, checked file by file, the default one first."""
    models = models_root()
    return [find_pair(models, name) for name in settings.pair] or [find_pair(models)]


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
        self._worker = worker
        self.lanes = Lanes(
            [self.open_lane(pair) for pair in find_pairs(settings)] if settings.pair else [self._first()]
        )
        self._watch = self._watch_index()
        self._shadow = self._open_shadow()
        self._tasks: list[asyncio.Task[None]] = []
        self._requests = 0
        self._of_caller: Counter[str] = Counter()
        self._bytes = 0

    def start(self) -> None:
        """Begin scoring, and following the default, on the running event loop."""
        for lane in self.lanes:
            lane.batcher.start()
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
        if self._requests >= settings.max_requests:
            raise OverloadedError(
                f"{settings.max_requests} requests are being answered, the most allowed; try again later",
                retry_after_s=1,
            )

    def hold(self, n_bytes: int) -> None:
        """Account for bytes of a request's body; `OverloadedError` if all requests together hold too many."""
        if self._bytes + n_bytes > self.settings.max_bytes_held:
            raise OverloadedError("too much data of other requests is being held; try again later", retry_after_s=1)
        self._bytes += n_bytes

    def _first(self) -> Lane:
        """The default's lane; if the pair is unsound, that of the last default before it that is sound.

        A service is not started on an unsound default (`pipeprobe serve` looks first), but a worker may have to be
        replaced while the default is one: then it serves what the other workers go on serving.
        """
        index = read_index(models_root())
        try:
            return self.open_lane(find_pair(models_root()))
        except PairError as unsound:
            for earlier in reversed(index.history):
                try:
                    lane = self.open_lane(load_folder(models_root(), earlier.default))
                except PairError:
                    continue
                logger.error(
                    "the default pair cannot be served: %s; %s, the one before, is served", unsound, lane.folder
                )
                return lane
            raise

    def _watch_index(self) -> IndexWatch | None:
        """What follows the default; None where the settings pin the pairs."""
        settings, metrics = self.settings, self.telemetry.promotions
        metrics.serves(self.default.name, self.default.version)
        if settings.pair or not settings.watch_s:
            return None
        return IndexWatch(
            models_root(),
            self.lanes,
            open_lane=self.open_lane,
            closed=self._closed,
            metrics=metrics,
            every_s=settings.watch_s,
            keep=settings.keep_versions,
        )

    def open_lane(self, pair: Pair) -> Lane:
        """A lane that is warmed up and verified, and not started yet; takes seconds, in any thread."""
        settings = self.settings
        scorer = self._open_scorer(pair, settings.session_threads())
        manifest, limits = pair.manifest, settings.decode_limits
        metrics = self.telemetry.pair(manifest.name, manifest.version, manifest.operating_points)
        self.telemetry.serves(
            pair=manifest.name,
            version=manifest.version,
            encoder=manifest.encoder,
            method=manifest.method,
            variant=scorer.variant,
            device=scorer.device,
            provider=scorer.provider,
        )

        watched = watched_score(scorer, self.telemetry.drift, settings)

        def score(frames: NDArray[np.uint8]) -> Scores:
            scores = watched(frames)
            if self._shadow is not None and self.default.scorer is scorer:
                self._shadow.offer(manifest, frames, scores)
            return scores

        def decode(data: bytes) -> Frame:
            return decode_bytes(data, manifest.image_size, limits)

        batcher = Batcher(
            score,
            pool=self._pool,
            max_batch=scorer.max_batch,
            max_frames=settings.max_queue,
            observer=metrics,
            n_scorers=settings.scorers_of(settings.device_of(self._worker)),
        )
        return Lane(scorer=scorer, batcher=batcher, telemetry=metrics, decode=decode)

    def _open_scorer(self, pair: Pair, threads: int) -> Scorer:
        """A session that is warmed up and verified."""
        settings = self.settings
        device = settings.device_of(self._worker)
        scorer = Scorer(
            pair,
            device=device,
            variant=settings.variant or None,
            threads=threads,
            max_batch=settings.batch_of(device),
        )
        scorer.warm_up()
        verify_golden(scorer)
        return scorer

    def _open_shadow(self) -> Shadow | None:
        """The candidate in shadow mode; a broken one is left out, since it must not fail live answers."""
        settings = self.settings
        if not settings.shadow:
            return None
        try:
            # One thread, so that giving way is a matter of that thread alone.
            scorer = self._open_scorer(find_pair(models_root(), settings.shadow), threads=1)
        except PipeprobeError:
            logger.exception("the shadow %s cannot be used; the service goes on without it", settings.shadow)
            return None
        candidate = scorer.pair.manifest
        return Shadow(
            candidate,
            scorer.score,
            is_busy=lambda: self.default.batcher.frames > 0,
            max_frames=settings.shadow_queue,
            metrics=self.telemetry.shadows.of(candidate),
        )

    def _closed(self, lane: Lane) -> None:
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
