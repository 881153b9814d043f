"""Named thresholds of the score, chosen on the calibration part.

`balanced` maximises balanced accuracy (the mean of recall and specificity; Youden's J picks the same threshold).
Unlike F1 that does not depend on the share of defects, so the threshold keeps its meaning on footage with fewer
defects than the training data. `recall_95` and `recall_99` are the highest thresholds that still find that share
of the defects. `specificity_95` is the lowest threshold that passes that share of the normal frames: for videos,
where a defect is in sight for many frames and one of them is enough to open a finding, but every false alarm counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.calibration import Platt

Floats = NDArray[np.float64]

DEFAULT = "balanced"
RECALLS = {"recall_95": 0.95, "recall_99": 0.99}
SPECIFICITIES = {"specificity_95": 0.95}
# 1 - 1/20 is a hair under 0.95 in floating point.
ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A verdict is defect where score >= `value`; `criterion` says what it was chosen for."""

    value: float
    criterion: str


def choose_thresholds(labels: NDArray[np.integer], logits: NDArray[np.floating], platt: Platt) -> dict[str, Threshold]:
    """Thresholds on the calibrated score from labels and logits [N] of the calibration part.

    Thresholds lie half-way (in logits) between neighbouring frames, so that rounding in another precision or on
    another device cannot move a frame of the calibration part across.
    """
    logits = np.asarray(logits, dtype=np.float64)
    distinct = np.unique(logits)
    defects, normals = np.sort(logits[labels == 1]), np.sort(logits[labels == 0])
    # recall[i] and specificity[i] hold when the threshold lies just below distinct[i].
    recall = 1 - np.searchsorted(defects, distinct) / len(defects)
    specificity = np.searchsorted(normals, distinct) / len(normals)
    cuts = _cuts_below(distinct)

    def threshold(place: int, criterion: str) -> Threshold:
        return Threshold(value=float(platt.score(cuts[place])), criterion=criterion)

    best = int(np.argmax(recall + specificity))
    chosen = {DEFAULT: threshold(best, "largest balanced accuracy on the calibration part")}
    for name, wanted in RECALLS.items():
        place = int(np.flatnonzero(recall >= wanted - ROUNDING)[-1])
        chosen[name] = threshold(place, f"highest threshold with recall >= {wanted} on the calibration part")
    for name, wanted in SPECIFICITIES.items():
        enough = np.flatnonzero(specificity >= wanted - ROUNDING)
        # With few normal frames the highest score may be a normal one's, and no threshold passes as many.
        place = int(enough[0]) if len(enough) else len(distinct) - 1
        chosen[name] = threshold(place, f"lowest threshold with specificity >= {wanted} on the calibration part")
    return chosen


def _cuts_below(distinct: Floats) -> Floats:
    """The half-way points under each of the rising values; under the first one, half the median gap lower."""
    gaps = np.diff(distinct)
    lowest = distinct[:1] - (np.median(gaps) / 2 if len(gaps) else 0.5)
    return np.concatenate([lowest, distinct[:-1] + gaps / 2])
