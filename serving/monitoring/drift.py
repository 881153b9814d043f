"""How far recent traffic is from what a pair was validated on: pure arithmetic on counts and sums.

Scores: the population stability index over B bins,

    PSI = sum_b (q_b - p_b) ln(q_b / p_b),

p and q being the shares of reference and window (Siddiqi 2006, Credit Risk Scorecards). With no drift, and frames
drawn independently, its mean is (B - 1)(1/n + 1/m) for windows of n frames and references of m (Yurdakul 2018,
Statistical Properties of Population Stability Index).

Embeddings: the root mean square, over the D dimensions, of how many reference standard deviations the window's mean
lies from the reference's,

    distance = sqrt(mean_j ((window_mean_j - mean_j) / scale_j)^2).

With no drift, and frames drawn independently, the mean of its square is 1/n + 1/m, however the dimensions are
correlated; so about sqrt(1/n + 1/m) is to be expected.

Frames of one inspection resemble each other, so a window of few inspections lies above both expectations with no
camera changed. The thresholds are therefore sizes of effect, not significances, and a window should hold many
inspections.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.drift_reference import Reference

PSI_THRESHOLD = 0.25
"""Above it scores have drifted; the customary bound for a major shift."""

DISTANCE_THRESHOLD = 0.5
"""Above it frames have drifted: half a standard deviation in the root mean square of the dimensions."""

MIN_FRAMES = 200
"""Windows of fewer frames say nothing: their PSI alone is expected at 0.05 with no drift."""

# Added to every bin's count, lest an empty one make the index infinite.
_PRIOR = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowSums:
    """All that is kept of a window's frames; those of several workers can be added up.

    Attributes:
        n_frames: in the window.
        counts: float64 [B], frames in each of the reference's bins.
        embedding_sum: float64 [D].
    """

    n_frames: int
    counts: NDArray[np.float64]
    embedding_sum: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A window against the reference; the expected values are those without drift (see the module)."""

    psi: float
    distance: float
    expected_psi: float
    expected_distance: float


def measure_drift(reference: Reference, window: WindowSums) -> Drift | None:
    """The window against the reference, or None below `MIN_FRAMES`."""
    n = window.n_frames
    if n < MIN_FRAMES:
        return None
    return Drift(
        psi=population_stability_index(reference.counts, window.counts),
        distance=embedding_distance(reference, window.embedding_sum / n),
        expected_psi=expected_psi(reference.n_bins, reference.n_frames, n),
        expected_distance=expected_distance(reference.n_frames, n),
    )


def population_stability_index(reference: NDArray[np.number], window: NDArray[np.number]) -> float:
    """PSI of two histograms over the same bins, counts [B] each."""
    p, q = _shares(reference), _shares(window)
    return float(np.sum((q - p) * np.log(q / p)))


def embedding_distance(reference: Reference, window_mean: NDArray[np.floating]) -> float:
    """Distance of a window's mean embedding [D] from the reference's, in its standard deviations."""
    return float(np.sqrt(np.mean(((window_mean - reference.mean) / reference.scale) ** 2)))


def expected_psi(n_bins: int, n_reference: int, n_window: int) -> float:
    """Mean PSI of independent frames without drift."""
    return (n_bins - 1) * (1 / n_window + 1 / n_reference)


def expected_distance(n_reference: int, n_window: int) -> float:
    """Root mean square distance of independent frames without drift."""
    return math.sqrt(1 / n_window + 1 / n_reference)


def _shares(counts: NDArray[np.number]) -> NDArray[np.float64]:
    padded = np.asarray(counts, np.float64) + _PRIOR
    shares: NDArray[np.float64] = padded / padded.sum()
    return shares
