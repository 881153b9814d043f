"""From logits to calibrated probabilities: Platt scaling, and how good the probabilities are.

Shapes: N frames. Labels are 1 (defect) and 0 (normal).

The score is calibrated to the share of defects in the frames it was fitted on. Where footage holds another
share, scores stay correctly ordered but are too high or too low as probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.errors import DataError

Floats = NDArray[np.float64]

ECE_BINS = 15
_MAX_STEPS = 100
_GRADIENT_TOLERANCE = 1e-10


@dataclass(frozen=True, kw_only=True)
class Platt:
    """score = sigmoid(slope * logit + intercept)."""

    slope: float
    intercept: float

    def score(self, logits: NDArray[np.floating]) -> Floats:
        """Calibrated probability of defect, float64, of the same shape as `logits`."""
        return sigmoid(self.slope * np.asarray(logits, dtype=np.float64) + self.intercept)


def sigmoid(x: NDArray[np.floating]) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    x = np.asarray(x, dtype=np.float64)
    small = np.exp(-np.abs(x))
    probability: Floats = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return probability


class UncalibratableError(DataError):
    """Higher logits go with fewer defects, so that calibrating would mean to turn the ranking round."""


def fit_platt(labels: NDArray[np.integer], logits: NDArray[np.floating]) -> Platt:
    """Fit slope and intercept by maximum likelihood (Newton, float64).

    The targets are Platt's (1999): (n1 + 1) / (n1 + 2) and 1 / (n0 + 2) in place of 1 and 0, which keep the slope
    finite when the classes are separable.

    Raises:
        DataError: a class is missing.
        UncalibratableError: higher logits go with fewer defects.
    """
    labels, values = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    defects, normals = int((labels == 1).sum()), int((labels == 0).sum())
    if not defects or not normals:
        raise DataError(
            f"calibration needs defects and normals, the held-out part has {defects} and {normals}: "
            "add labelled inspections, or raise the held-out share"
        )
    targets = np.where(labels == 1, (defects + 1) / (defects + 2), 1 / (normals + 2))
    centre, scale = float(values.mean()), float(values.std()) or 1.0
    # Newton on standardised logits, where its two unknowns are of the same size.
    slope, intercept = _newton((values - centre) / scale, targets)
    slope, intercept = slope / scale, intercept - slope * centre / scale
    if not slope > 0:
        raise UncalibratableError(
            "the probe's logits do not rise with defects on the held-out part: the features say nothing about "
            "the labels, or the labels are swapped; look at the data before exporting anything"
        )
    return Platt(slope=slope, intercept=intercept)


def flat_platt(labels: NDArray[np.integer], logits: NDArray[np.floating]) -> Platt:
    """All scores close to the share of defects, in the order of the logits: what a probe that knows nothing may say."""
    values = np.asarray(logits, dtype=np.float64)
    share = (float((labels == 1).sum()) + 1) / (len(labels) + 2)
    slope = 0.01 / (float(values.std()) or 1.0)
    return Platt(slope=slope, intercept=float(np.log(share / (1 - share))) - slope * float(values.mean()))


def _newton(x: Floats, targets: Floats) -> tuple[float, float]:
    design = np.stack([x, np.ones_like(x)], axis=1)
    weights = np.zeros(2)
    loss = _log_loss(design @ weights, targets)
    for _ in range(_MAX_STEPS):
        probability = sigmoid(design @ weights)
        gradient = design.T @ (probability - targets) / len(x)
        if np.abs(gradient).max() < _GRADIENT_TOLERANCE:
            break
        hessian = (design * (probability * (1 - probability))[:, None]).T @ design / len(x)
        step = np.linalg.solve(hessian + 1e-12 * np.eye(2), gradient)
        # Newton overshoots where the sigmoid is flat; halving keeps every step downhill.
        for halvings in range(30):
            candidate = weights - step / 2**halvings
            candidate_loss = _log_loss(design @ candidate, targets)
            if candidate_loss <= loss:
                weights, loss = candidate, candidate_loss
                break
        else:
            break
    return float(weights[0]), float(weights[1])


def _log_loss(logits: Floats, targets: Floats) -> float:
    return float(np.mean(np.logaddexp(0.0, logits) - targets * logits))


def brier(labels: NDArray[np.integer], scores: NDArray[np.floating]) -> float:
    """Mean squared difference of score and label, in [0, 1]; 0 is perfect."""
    return float(np.mean((np.asarray(scores, dtype=np.float64) - labels) ** 2))


def expected_calibration_error(
    labels: NDArray[np.integer], scores: NDArray[np.floating], *, bins: int = ECE_BINS
) -> float:
    """Mean |share of defects - mean score| over equal-count bins of the score, weighted by bin size, in [0, 1].

    Equal counts rather than equal widths: scores crowd at both ends and leave the middle bins nearly empty.
    """
    order = np.argsort(scores, kind="stable")
    chunks = [chunk for chunk in np.array_split(order, min(bins, len(order))) if len(chunk)]
    gaps = [abs(float(np.mean(labels[chunk]) - np.mean(scores[chunk]))) * len(chunk) for chunk in chunks]
    return sum(gaps) / len(order)
