"""Metrics read off the spectrum of the embeddings: RankMe, stable rank, NESum, alpha-ReQ.

Shapes: N frames, D features, K = min(N, D) singular values in descending order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.label_free.checks import checked_features

# Garrido et al. use the epsilon of float32 sums, 1e-7.
RANKME_EPSILON = 1e-7
# Encoders compute in float32 or less, so what is smaller than this share of the embeddings' norm is rounding.
FLOAT32_RESOLUTION = 1e-7
# alpha-ReQ's range of eigenvalues, counted from 1, and how many of them must be there.
ALPHA_FIRST, ALPHA_LAST, ALPHA_FEWEST = 11, 100, 5


def singular_values(features: Tensor) -> Tensor:
    """Singular values of the embeddings, which are not centred: float64 [K].

    Args:
        features: [N, D], as `checked_features` wants them, and raising what it raises.
    """
    sigma: Tensor = torch.linalg.svdvals(checked_features(features))
    return sigma


def covariance_eigenvalues(features: Tensor) -> Tensor:
    """Eigenvalues of the covariance of the embeddings (of their centred values, divided by N): float64 [K].

    Those that float32 rounding can explain are set to 0: the ones whose root is below 1e-7 of the root mean square
    of the embeddings' norms.

    Args:
        features: [N, D], as `checked_features` wants them, and raising what it raises.
    """
    checked = checked_features(features)
    sigma: Tensor = torch.linalg.svdvals(checked - checked.mean(dim=0))
    sigma[sigma < FLOAT32_RESOLUTION * checked.norm()] = 0.0
    return sigma.square() / len(checked)


def effective_rank(weights: Tensor) -> float:
    """exp of the entropy of the weights' shares (Roy and Vetterli 2007), from 1 to their number; 0/0 is NaN.

    exp(-sum_k p_k log p_k),   p_k = w_k / sum_j w_j + epsilon,   epsilon = 1e-7

    Args:
        weights: float64 [K], none negative.
    """
    p = weights / weights.sum() + RANKME_EPSILON
    return float((-(p * p.log()).sum()).exp())


def rankme(features: Tensor) -> float:
    """RankMe (Garrido, Balestriero, Najman, LeCun: ICML 2023, equations 1 and 2), from 1 to min(N, D).

    `effective_rank` of the singular values of the embeddings, which are not centred. Computed in float64. Does not
    change with scale, rotation or order of the frames.

    Args:
        features: [N, D], N >= 2, any float dtype, finite, not all zero.

    Raises:
        ValueError: not a matrix with at least two rows.
        DataError: not finite, or all zero.
    """
    return effective_rank(singular_values(features))


def stable_rank(features: Tensor) -> float:
    """Stable rank ||Z||_F^2 / ||Z||_2^2 (Tsitsulin, Munkhoeva, Perozzi: arXiv:2305.16562, section 3), from 1 to K.

    Of the embeddings as they are, not centred (centred, it is NESum). Does not change with scale, rotation or order.

    Args:
        features: [N, D], N >= 2, any float dtype, finite, not all zero.

    Raises:
        ValueError: not a matrix with at least two rows.
        DataError: not finite, or all zero.
    """
    return stable_rank_of(singular_values(features))


def stable_rank_of(sigma: Tensor) -> float:
    """`stable_rank` of embeddings with the singular values `sigma` [K]."""
    return float(sigma.square().sum() / sigma[0].square())


def nesum(features: Tensor) -> float:
    """Normalised eigenvalue sum (He and Ozay: ICML 2022, definition 4.1), from 1 to min(N - 1, D).

        sum_k lambda_k / lambda_1

    with lambda the eigenvalues of the covariance of the embeddings. D for whitened features. Does not change with
    scale, shift, rotation or order.

    Args:
        features: [N, D], N >= 2, any float dtype, finite, not all zero.

    Returns:
        NaN where all embeddings coincide.

    Raises:
        ValueError: not a matrix with at least two rows.
        DataError: not finite, or all zero.
    """
    return nesum_of(covariance_eigenvalues(features))


def nesum_of(eigenvalues: Tensor) -> float:
    """`nesum` of embeddings whose covariance has these eigenvalues [K]."""
    return float(eigenvalues.sum() / eigenvalues[0])


def alpha_req(features: Tensor) -> float:
    """alpha-ReQ (Agrawal, Mondal, Ghosh, Richards: NeurIPS 2022): alpha in lambda_j ~ j^-alpha.

    Lambda are the eigenvalues of the covariance of the embeddings. Fitted as Stringer et al. (Nature 2019) do, whose
    recipe the authors take over: least squares of log lambda_j on log j, weighted by 1 / j, without the first ten,
    which seldom follow the law. The paper leaves the range open; here it is 11 <= j <= 100, less where the rank
    ends sooner. The range matters: compare values of one range only.

    0 for a flat spectrum, large where few directions hold all variance. Neither is good: theory and the paper's
    experiments favour alpha near 1. Does not change with scale, shift, rotation or order.

    Args:
        features: [N, D], N >= 2, any float dtype, finite, not all zero.

    Returns:
        NaN where the covariance has a rank below 15, too low for a fit.

    Raises:
        ValueError: not a matrix with at least two rows.
        DataError: not finite, or all zero.
    """
    return alpha_req_of(covariance_eigenvalues(features))


def alpha_req_of(eigenvalues: Tensor) -> float:
    """`alpha_req` of embeddings whose covariance has these eigenvalues [K]."""
    rank = int((eigenvalues > 0).sum())
    last = min(ALPHA_LAST, rank)
    if last - ALPHA_FIRST + 1 < ALPHA_FEWEST:
        return math.nan
    index = torch.arange(ALPHA_FIRST, last + 1, dtype=torch.float64)
    x, y = index.log(), eigenvalues[ALPHA_FIRST - 1 : last].log()
    weight = 1 / index / (1 / index).sum()
    from_mean = x - (weight * x).sum()
    return float(-(weight * from_mean * y).sum() / (weight * from_mean.square()).sum())
