"""Spread over seeds, contrasts between cells, rank correlation and its interval.

Shapes: N runs, R bootstrap replicates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVEL = 0.95
REPLICATES = 2000
# Fewer groups than this say nothing of how another draw of groups would come out.
FEWEST_GROUPS = 4
# A replicate without any variation has no correlation; with more of them than this, no interval is given.
MOST_UNDEFINED = 0.1


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and standard deviation (n - 1 in its denominator) over seeds; of one seed the deviation is unknown: None."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman's rho over `n` runs in `groups` groups; without an interval where groups are too few or do not vary."""

    rho: float
    n: int
    groups: int
    low: float | None
    high: float | None


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and spread of `values`; None of none."""
    if not values:
        return None
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(mean=float(np.mean(values)), sd=sd, n=len(values))


def contrast(terms: Sequence[tuple[float, Sequence[float]]]) -> Interval:
    """sum_i w_i mean(x_i) with a t interval whose degrees of freedom are Welch and Satterthwaite's.

    The terms are independent samples: (w_i, x_i), at least two values each, whose variances may differ. For the
    weights 1 and -1 this is Welch's interval for a difference of two means.

    Raises:
        ValueError: a term has fewer than two values.
    """
    if any(len(values) < 2 for _, values in terms):
        raise ValueError("each term of a contrast needs two values")
    value = sum(weight * float(np.mean(values)) for weight, values in terms)
    parts = [(weight**2 * float(np.var(values, ddof=1)) / len(values), len(values) - 1) for weight, values in terms]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Interval(value=value, low=value, high=value)
    df = variance**2 / sum(part**2 / each for part, each in parts)
    half = float(stdtrit(df, 0.5 + LEVEL / 2)) * math.sqrt(variance)
    return Interval(value=value, low=value - half, high=value + half)


def spearman(x: Floats, y: Floats, groups: Ints | None = None) -> Correlation | None:
    """Spearman's rank correlation, ties ranked alike; its interval resamples whole groups.

    Runs of one method on one encoder resemble each other, so that as many runs as there are tell less than as many
    independent ones would: groups, not runs, are drawn with replacement. Percentile bootstrap, seeded.

    Args:
        x, y: [N].
        groups: [N]; every run is its own without.

    Returns:
        None where fewer than 3 runs are there, or x or y do not vary.
    """
    if len(x) < 3:
        return None
    rho = float(_spearman(x, y, np.ones((1, len(x))))[0])
    if math.isnan(rho):
        return None
    index = np.arange(len(x)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(index.max()) + 1
    low = high = None
    if count >= FEWEST_GROUPS:
        low, high = _interval(_spearman(x, y, _draws(count, np.random.default_rng(0))[:, index]))
    return Correlation(rho=rho, n=len(x), groups=count, low=low, high=high)


def mean_spearman(parts: Sequence[tuple[Floats, Floats]]) -> Correlation | None:
    """Mean of Spearman's rho within parts, each resampled by itself; parts that do not vary are left out.

    Returns:
        None where no part has a correlation; `groups` counts those that do.
    """
    known = [(x, y) for x, y in parts if len(x) >= 3 and np.ptp(x) > 0 and np.ptp(y) > 0]
    if not known:
        return None
    rho = float(np.mean([_spearman(x, y, np.ones((1, len(x))))[0] for x, y in known]))
    rng = np.random.default_rng(0)
    drawn = np.array([_spearman(x, y, _draws(len(x), rng)) for x, y in known])
    # A part that a replicate drew without variation has no say in that replicate.
    defined = ~np.isnan(drawn)
    means = np.full(REPLICATES, np.nan)
    np.divide(np.where(defined, drawn, 0).sum(0), defined.sum(0), out=means, where=defined.any(0))
    low, high = _interval(means)
    return Correlation(rho=rho, n=sum(len(x) for x, _ in known), groups=len(known), low=low, high=high)


def seed_deviation(values: Floats, cells: Ints) -> float | None:
    """Standard deviation within cells, pooled: what seeds alone make; both [N]. None where no cell has two runs."""
    df = len(values) - len(np.unique(cells))
    if df < 1:
        return None
    within = sum(
        float(((values[cells == cell] - values[cells == cell].mean()) ** 2).sum()) for cell in np.unique(cells)
    )
    return math.sqrt(within / df)


def _draws(count: int, rng: np.random.Generator) -> Floats:
    """How often each of `count` things is drawn in each bootstrap replicate: [R, count]."""
    return rng.multinomial(count, np.full(count, 1 / count), size=REPLICATES).astype(np.float64)


def _interval(replicates: Floats) -> tuple[float | None, float | None]:
    if np.isnan(replicates).mean() > MOST_UNDEFINED:
        return None, None
    low, high = np.nanpercentile(replicates, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def _spearman(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Rank correlation of samples that hold run i `weights[r, i]` times: [R] of [N], [N], [R, N].

    The same as repeating the runs, without sorting each replicate anew. NaN where one does not vary.
    """
    total = weights.sum(1, keepdims=True)
    ranks = [_ranks(values, weights) for values in (x, y)]
    centred_x, centred_y = (rank - (weights * rank).sum(1, keepdims=True) / total for rank in ranks)
    scale = np.sqrt((weights * centred_x**2).sum(1) * (weights * centred_y**2).sum(1))
    result = np.full(len(weights), np.nan)
    # Ranks are halves of whole numbers: a variance below this is rounding.
    np.divide((weights * centred_x * centred_y).sum(1), scale, out=result, where=scale > 1e-9)
    return result


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Rank of each run in each weighted sample, ties sharing their mean: [R, N]."""
    distinct, index = np.unique(values, return_inverse=True)
    held = np.zeros((len(weights), len(distinct)))
    np.add.at(held.T, index, weights.T)
    ranks: Floats = (held.cumsum(1) - held / 2 + 0.5)[:, index]
    return ranks
