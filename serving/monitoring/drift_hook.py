"""Where drift is measured: on what the scorer says, in its thread, after it has said it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from serving.limits import Settings
from serving.monitoring.drift_metrics import DriftMetrics
from serving.monitoring.drift_reference import load_reference
from serving.scorer import Scorer, Scores

logger = logging.getLogger(__name__)


def watched_score(scorer: Scorer, drift: DriftMetrics, settings: Settings) -> Callable[[NDArray[np.uint8]], Scores]:
    """The scorer's `score`, which also fills the pair's window; as it is if the pair ships no reference.

    Raises `PairInvalidError` if the pair ships one that does not fit it.
    """
    manifest = scorer.pair.manifest
    if not settings.drift_window_frames:
        return scorer.score
    reference = load_reference(scorer.pair, scorer.variant)
    if reference is None:
        logger.warning(
            "pair %s %s ships no reference of what it was validated on: its drift is not measured",
            manifest.name,
            manifest.version,
        )
        return scorer.score
    watch = drift.watch(
        pair=manifest.name,
        version=manifest.version,
        variant=scorer.variant,
        reference=reference,
        window_frames=settings.drift_window_frames // settings.workers,
        window_s=settings.drift_window_s,
        worker=os.getpid(),
    )

    def score(frames: NDArray[np.uint8]) -> Scores:
        scores = scorer.score(frames)
        watch.see(scores)
        return scores

    return score
