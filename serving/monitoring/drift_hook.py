"""Where drift is measured: on what the scorer says, in its thread, after it has said it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from serving.limits import Settings
from serving.monitoring.drift_metrics import DriftMetrics
from serving.monitoring.drift_reference import load_reference
from serving.scorer import Scorer, Scores

logger = logging.getLogger(__name__)


def drift_watch(scorer: Scorer, drift: DriftMetrics, settings: Settings) -> Callable[[Scores], None]:
    """What fills the pair's window with the scores that it is told of; nothing if the pair ships no reference.

    Raises `PairInvalidError` if the pair ships one that does not fit it.
    """
    manifest = scorer.pair.manifest
    if not settings.drift_window_frames:
        return _see_nothing
    reference = load_reference(scorer.pair, scorer.variant)
    if reference is None:
        logger.warning(
            "pair %s %s ships no reference of what it was validated on: its drift is not measured",
            manifest.name,
            manifest.version,
        )
        return _see_nothing
    watch = drift.watch(
        pair=manifest.name,
        version=manifest.version,
        variant=scorer.variant,
        reference=reference,
        window_frames=settings.drift_window_frames // settings.workers,
        window_s=settings.drift_window_s,
        worker=os.getpid(),
    )
    return watch.see


def _see_nothing(_: Scores) -> None:
    pass
