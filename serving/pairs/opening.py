"""From a pair's folder to a session that is warmed up and verified, and to a lane around it.

Nothing unsound is ever served: whoever opens a pair, at start, after a promotion or as a shadow, does it here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from serving.batching import Batcher
from serving.decode_pool import DecodePool
from serving.errors import ConfigError, PairError, PipeprobeError
from serving.frames import Frame, decode_bytes
from serving.http.loop_lag import LoopLag
from serving.limits import Settings
from serving.monitoring.drift_hook import drift_watch
from serving.monitoring.telemetry import Telemetry
from serving.pairs.golden import verify_golden
from serving.pairs.lanes import Lane
from serving.pairs.pair import Pair, find_pair, load_folder, models_root
from serving.pairs.pair_index import read_index
from serving.pairs.shadow import Shadow
from serving.scorer import Scorer, Scores

logger = logging.getLogger(__name__)

OnScored = Callable[[Scorer, NDArray[np.uint8], Scores], None]
"""Told, in a scorer thread, of every batch that a lane's session has scored; must neither wait nor raise."""


def find_pairs(settings: Settings) -> list[Pair]:
    """The pairs that the settings name, checked file by file, the default one first."""
    models = models_root()
    return [find_pair(models, name) for name in settings.pair] or [find_pair(models)]


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


class Opener:
    """Opens pairs for one worker.

    Raises what `find_pair`, `Scorer` and `verify_golden` raise.
    """

    def __init__(
        self,
        settings: Settings,
        telemetry: Telemetry,
        pool: DecodePool,
        *,
        worker: int,
        on_scored: OnScored,
        lag: LoopLag,
    ) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._pool = pool
        self._device = settings.device_of(worker)
        self._on_scored = on_scored
        self._lag = lag

    def first_lanes(self) -> list[Lane]:
        """The lanes to begin with, the default one first: of the pairs that the settings name, or of the default.

        A service is not started on an unsound default (`pipeprobe serve` looks first), but a worker may have to be
        replaced while the default is one: then it serves the last default before it that is sound, as the other
        workers go on doing.
        """
        if self._settings.pair:
            return [self.lane(pair) for pair in find_pairs(self._settings)]
        models = models_root()
        try:
            return [self.lane(find_pair(models))]
        except PairError as unsound:
            for earlier in reversed(read_index(models).history):
                try:
                    lane = self.lane(load_folder(models, earlier.default))
                except PairError:
                    continue
                logger.error("the default pair cannot be served: %s; %s, served before it, is", unsound, lane.folder)
                return [lane]
            raise

    def lane(self, pair: Pair) -> Lane:
        """A lane that is not started yet; takes seconds, in any thread."""
        settings, manifest = self._settings, pair.manifest
        scorer = self._scorer(pair, settings.lone_threads())
        busy_threads = settings.busy_threads(self._device)
        busy = scorer if scorer.threads == busy_threads else self._scorer(pair, busy_threads)
        metrics = self._telemetry.pair(manifest.name, manifest.version, manifest.operating_points)
        self._telemetry.serves(
            pair=manifest.name,
            version=manifest.version,
            encoder=manifest.encoder,
            method=manifest.method,
            variant=scorer.variant,
            device=scorer.device,
            provider=scorer.provider,
        )
        watch, limits = drift_watch(scorer, self._telemetry.drift, settings), settings.decode_limits

        def watched(session: Scorer) -> Callable[[NDArray[np.uint8]], Scores]:
            def score(frames: NDArray[np.uint8]) -> Scores:
                scores = session.score(frames)
                watch(scores)
                self._on_scored(scorer, frames, scores)
                return scores

            return score

        def decode(data: bytes) -> Frame:
            return decode_bytes(data, manifest.image_size, limits)

        batcher = Batcher(
            watched(busy),
            score_alone=watched(scorer),
            pool=self._pool,
            max_batch=scorer.max_batch,
            max_frames=settings.max_queue,
            observer=metrics,
            n_scorers=settings.scorers_of(self._device),
            lag_s=self._lag.seconds,
        )
        return Lane(scorer=scorer, batcher=batcher, telemetry=metrics, decode=decode)

    def shadow(self, *, is_busy: Callable[[], bool]) -> Shadow | None:
        """The candidate in shadow mode; a broken one is left out, since it must not fail live answers."""
        settings = self._settings
        if not settings.shadow:
            return None
        try:
            # One thread, so that giving way is a matter of that thread alone.
            scorer = self._scorer(find_pair(models_root(), settings.shadow), threads=1)
        except PipeprobeError:
            logger.exception("the shadow %s cannot be used; the service goes on without it", settings.shadow)
            return None
        candidate = scorer.pair.manifest
        return Shadow(
            candidate,
            scorer.score,
            is_busy=is_busy,
            max_frames=settings.shadow_queue,
            metrics=self._telemetry.shadows.of(candidate),
        )

    def _scorer(self, pair: Pair, threads: int) -> Scorer:
        """A session that is warmed up and verified."""
        scorer = Scorer(
            pair,
            device=self._device,
            variant=self._settings.variant or None,
            threads=threads,
            max_batch=self._settings.batch_of(self._device),
            cuda_graphs=bool(self._settings.cuda_graphs),
        )
        scorer.warm_up()
        verify_golden(scorer)
        return scorer
