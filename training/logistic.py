"""Weighted logistic regression by Newton steps, quick enough to be fitted many times on one set of features.

Gradients are exact, in float64; only the Hessian is summed in float32, which halves its time and changes the way to
the optimum, not the optimum.

Shapes: N frames, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.errors import DataError
from training.calibration import sigmoid

Floats = NDArray[np.float64]

# No component of the gradient is larger at the end; features are standardised and the weights of the frames sum to 1.
GRADIENT_TOLERANCE = 1e-6
_MAX_STEPS = 200
_MAX_HALVINGS = 40
_SUFFICIENT = 1e-4
_EPSILON = np.finfo(np.float64).eps
# Rows of the Hessian's sum at a time: they stay in the cache, and memory does not grow with N.
_CHUNK_ROWS = 2048


@dataclass(frozen=True, kw_only=True)
class Design:
    """Standardised features and a last column of ones: `exact` float64 and `coarse` float32, both [N, D + 1].

    `mean` and `scale`, [D], are those of the features; a feature that never varies has scale infinity, so that its
    column is 0.
    """

    exact: Floats
    coarse: NDArray[np.float32]
    mean: Floats
    scale: Floats


def standardise(features: NDArray[np.floating]) -> Design:
    """The design of features [N, D].

    Raises:
        DataError: not two-dimensional, or not finite.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or not len(features):
        raise DataError(f"features must be [N, D] with N > 0, got {features.shape}")
    if not np.isfinite(features).all():
        raise DataError("features are not finite: look for a diverged encoder")
    mean, scale = features.mean(0), features.std(0)
    scale[scale <= 1e-8 * np.maximum(1.0, np.abs(mean))] = np.inf
    exact = np.ones((len(features), features.shape[1] + 1))
    np.divide(features - mean, scale, out=exact[:, :-1])
    return Design(exact=exact, coarse=exact.astype(np.float32), mean=mean, scale=scale)


def fit_logistic(
    design: Design,
    positive: NDArray[np.bool_],
    frame_weights: Floats,
    *,
    l2: float,
    start: Floats | None = None,
) -> Floats:
    """Minimise sum_i a_i log(1 + exp(-y_i z_i)) + l2 / 2 |w|^2 with z = x w + b, y = 1 or -1; the bias b is free.

    Args:
        design: standardised features.
        positive: bool [N], where y = 1.
        frame_weights: [N], the a_i, summing to 1; 0 leaves a frame out. Frames of both kinds must count.
        l2: positive.
        start: [D + 1] to start from, such as the solution of a stronger `l2`.

    Returns:
        float64 [D + 1] on the design's columns, bias last, where no component of the gradient exceeds 1e-6.

    Raises:
        DataError: no convergence.
    """
    coefficients = np.zeros(design.exact.shape[1]) if start is None else start
    penalty = np.full(len(coefficients), l2, dtype=np.float64)
    penalty[-1] = 0

    def loss(candidate: Floats) -> float:
        losses = log_losses(design.exact @ candidate, positive)
        return float(frame_weights @ losses + penalty @ candidate**2 / 2)

    for _ in range(_MAX_STEPS):
        probability = sigmoid(design.exact @ coefficients)
        gradient = design.exact.T @ (frame_weights * (probability - positive)) + penalty * coefficients
        if np.abs(gradient).max() <= GRADIENT_TOLERANCE:
            return coefficients
        hessian = _hessian(design, frame_weights * probability * (1 - probability), penalty)
        step = np.asarray(np.linalg.solve(hessian, gradient), dtype=np.float64)
        coefficients = _descend(loss, coefficients, step, gradient)
    raise DataError(f"a logistic regression with l2={l2:g} did not converge in {_MAX_STEPS} steps: try a larger l2")


def unfold(design: Design, coefficients: Floats) -> tuple[Floats, float]:
    """Weight [D] and bias for features that are not standardised."""
    weight = coefficients[:-1] / design.scale
    return weight, float(coefficients[-1] - weight @ design.mean)


def log_losses(logits: Floats, positive: NDArray[np.bool_]) -> Floats:
    """log(1 + exp(-y z)) of each frame, [N]."""
    losses: Floats = np.logaddexp(0.0, np.where(positive, -logits, logits))
    return losses


def _descend(loss: Callable[[Floats], float], at: Floats, step: Floats, gradient: Floats) -> Floats:
    """`at - step`, the step halved until the loss falls by a fair part of what its slope promises (Armijo)."""
    before, promised = loss(at), float(gradient @ step)
    size = 1.0
    for _ in range(_MAX_HALVINGS):
        # The loss itself is only known to a few units in its last place.
        if loss(at - size * step) <= before - _SUFFICIENT * size * promised + 4 * _EPSILON * abs(before):
            break
        size /= 2
    return at - size * step


def _hessian(design: Design, curvature: Floats, penalty: Floats) -> Floats:
    """x^T diag(curvature) x + diag(penalty), [D + 1, D + 1], the sum in float32, so a little too steep on purpose."""
    root = np.sqrt(curvature).astype(np.float32)[:, None]
    total = np.diag(penalty)
    for start in range(0, len(root), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        scaled = design.coarse[rows] * root[rows]
        total += scaled.T @ scaled
    # More than what rounding can take away, so that every step goes downhill.
    total[np.diag_indices_from(total)] += np.finfo(np.float32).eps * np.trace(total)
    return total
