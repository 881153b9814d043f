"""What is measured of every experiment: verdicts at several shares of defects, at two thresholds.

Validation and test frames are scored once; each data set below is a draw of those scores. The published threshold is
0.5 on the probe's own score, whose loss weighs both classes alike; the chosen one is the operating point `balanced`,
placed on the calibration part of the training inspections.

Shapes: N frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import DataError
from training.calibration import Platt
from training.data.imbalance import draw_subset
from training.metrics import auroc, average_precision, threshold_metrics

Floats = NDArray[np.float64]

PROPORTIONS = (0.01, 0.02, 0.05, 0.15)
BALANCED = 0.5
PUBLISHED_THRESHOLD = 0.5
# One draw for all experiments, so that they are measured on the same frames.
DRAW_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Labelled frames with their logits: float64 [N]; labels [N] of 1 and 0, classes uint8 [N, 17]."""

    logits: Floats
    labels: NDArray[np.int8]
    classes: NDArray[np.uint8]

    def take(self, rows: NDArray[np.int64]) -> Scored:
        """The frames at `rows`."""
        return Scored(logits=self.logits[rows], labels=self.labels[rows], classes=self.classes[rows])


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """How logits become verdicts: the calibrated score, and the threshold chosen on it."""

    platt: Platt
    threshold: float


def evaluate_experiment(scored: Mapping[str, Scored], verdicts: Verdicts) -> dict[str, Any]:
    """Metrics by name of data set: train, val at each proportion, val and test balanced and natural.

    A set that the split has too few frames for is left out, and so is test where there is none.

    Args:
        scored: by split: train, val and, where there is one, test.
        verdicts: how logits become verdicts.
    """
    sets = {"train": scored["train"], **_draws("val", scored["val"], PROPORTIONS)}
    if "test" in scored:
        sets |= _draws("test", scored["test"], ())
    return {name: _measure(scored, verdicts) for name, scored in sets.items()}


def percent(proportion: float) -> str:
    """`p1` for 0.01."""
    return f"p{100 * proportion:g}"


def _draws(split: str, scored: Scored, proportions: tuple[float, ...]) -> dict[str, Scored]:
    wanted = {f"{split}_{percent(share)}": share for share in proportions} | {f"{split}_balanced": BALANCED}
    drawn = {}
    for name, share in wanted.items():
        try:
            rows = draw_subset(scored.labels, defect_proportion=share, seed=DRAW_SEED).indices
        except DataError:
            continue
        drawn[name] = scored.take(rows)
    return drawn | {f"{split}_natural": scored}


def _measure(scored: Scored, verdicts: Verdicts) -> dict[str, Any]:
    classes = scored.classes if scored.classes.any() else None
    published = threshold_metrics(scored.labels, scored.logits, threshold=0.0, classes=classes)
    scores = verdicts.platt.score(scored.logits)
    chosen = threshold_metrics(scored.labels, scores, threshold=verdicts.threshold, classes=classes)
    return {
        "n": len(scored.labels),
        "n_defect": int(np.count_nonzero(scored.labels == 1)),
        "auroc": auroc(scored.labels, scored.logits),
        "average_precision": average_precision(scored.labels, scored.logits),
        "published": {"threshold": PUBLISHED_THRESHOLD, **published},
        "chosen": {"threshold": verdicts.threshold, **chosen},
    }
