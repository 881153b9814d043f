"""How good an embedding is, measured without labels. Shapes: N frames, D features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Garrido et al. use the epsilon of float32 sums, 1e-7.
RANKME_EPSILON = 1e-7
# Below this share of the spread that directions spread evenly over the sphere have, all embeddings coincide.
COLLAPSED_STD = 0.02
COLLAPSED_RANK = 1.5


def rankme(features: Tensor) -> float:
    """RankMe (Garrido, Balestriero, Najman, LeCun: ICML 2023, equations 1 and 2), from 1 to min(N, D).

        exp(-sum_k p_k log p_k),   p_k = sigma_k / sum_j sigma_j + epsilon,   epsilon = 1e-7

    with sigma the singular values of the embeddings, which are not centred. Computed in float64.

    Args:
        features: [N, D], any float dtype, not all zero.

    Raises:
        ValueError: not a matrix.
    """
    _check_matrix(features)
    sigma = torch.linalg.svdvals(features.detach().cpu().double())
    p = sigma / sigma.sum() + RANKME_EPSILON
    return float((-(p * p.log()).sum()).exp())


def feature_std(features: Tensor) -> float:
    """Standard deviation of l2-normalised embeddings, over frames, mean over features (Chen and He 2021, fig. 2).

    0 when all embeddings have the same direction, 1 / sqrt(D) when directions are spread evenly.

    Args:
        features: [N, D], N >= 2.

    Raises:
        ValueError: not a matrix with at least two rows.
    """
    _check_matrix(features)
    if len(features) < 2:
        raise ValueError("a standard deviation needs at least two embeddings")
    unit = functional.normalize(features.detach().cpu().double(), dim=1)
    return float(unit.std(dim=0, correction=0).mean())


def is_collapsed(*, rank: float, std: float, feature_dim: int) -> bool:
    """Whether embeddings of this RankMe and `feature_std` tell hardly any two frames apart."""
    return not (rank >= COLLAPSED_RANK or std * feature_dim**0.5 >= COLLAPSED_STD)


def _check_matrix(features: Tensor) -> None:
    if features.ndim != 2:
        raise ValueError(f"embeddings must be [N, D], got {tuple(features.shape)}")
