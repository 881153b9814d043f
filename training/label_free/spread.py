"""How embeddings are spread: standard deviation of directions, SelfCluster, distance from a Gaussian.

Shapes: N frames, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.label_free.checks import checked_features
from training.label_free.spectrum import FLOAT32_RESOLUTION
from training.sigreg import random_directions, sigreg

# Below this share of the spread that directions spread evenly over the sphere have, all embeddings coincide.
COLLAPSED_STD = 0.02
COLLAPSED_RANK = 1.5
SIGREG_DIRECTIONS = 256


def feature_std(features: Tensor) -> float:
    """Standard deviation of l2-normalised embeddings, over frames, mean over features (Chen and He 2021, fig. 2).

    0 when all embeddings have the same direction, 1 / sqrt(D) when directions are spread evenly.

    Args:
        features: [N, D], N >= 2, any float dtype, finite, not all zero.

    Raises:
        ValueError: not a matrix with at least two rows.
        DataError: not finite, or all zero.
    """
    unit = functional.normalize(checked_features(features), dim=1)
    return float(unit.std(dim=0, correction=0).mean())


def is_collapsed(*, rank: float, std: float, feature_dim: int) -> bool:
    """Whether embeddings of this RankMe and `feature_std` tell hardly any two frames apart."""
    return not (rank >= COLLAPSED_RANK or std * feature_dim**0.5 >= COLLAPSED_STD)


def self_cluster(features: Tensor) -> float:
    """SelfCluster (Tsitsulin, Munkhoeva, Perozzi: arXiv:2305.16562, definition 3.5), at most 1.

        (Q - E) / (N^2 - E),   Q = sum_ij cos^2(z_i, z_j),   E = N + N (N - 1) / D

    over all pairs of embeddings, which are not centred; E is what directions drawn evenly from the sphere are
    expected to give (the paper writes Q as a norm; E and N^2 belong to its square, which is taken here). 1 when all
    lie on one line through the origin, about 0 when directions are drawn evenly, and at least
    -1 / (max(N, D) - 1): high is clustered. Does not change with the scale of any embedding, rotation or order.

    Args:
        features: [N, D], N, D >= 2, any float dtype, finite, not all zero.

    Returns:
        NaN where an embedding is zero, which has no direction.

    Raises:
        ValueError: not a matrix with at least two rows and columns.
        DataError: not finite, or all zero.
    """
    checked = checked_features(features)
    n, d = checked.shape
    if d < 2:
        raise ValueError("on a line all directions coincide: SelfCluster needs at least two features")
    norms = checked.norm(dim=1, keepdim=True)
    if not norms.all():
        return math.nan
    unit = checked / norms
    # ||U U^T|| = ||U^T U||, and D x D is the smaller of the two.
    together = float((unit.T @ unit).square().sum())
    expected = n + n * (n - 1) / d
    return (together - expected) / (n * n - expected)


def sigreg_statistic(features: Tensor, generator: torch.Generator) -> float:
    """SIGReg's statistic (see `training.sigreg.sigreg`) of standardised embeddings, over 256 random directions.

    Unit and origin of an encoder's features are arbitrary to a linear probe, and those of methods differ by orders
    of magnitude, which would drown the shape. So the embeddings are centred and divided by one number, the root of
    their mean variance over features: how far they are from isotropic and Gaussian is left. Isotropic Gaussian
    embeddings give sqrt(2 pi) (1 - 4 / (3 sqrt(3))) = 0.58 on average whatever N is (1.06 if the mean were known,
    not fitted); elsewhere it grows in proportion to N, so compare values of equal N only. Does not change with
    scale, shift or order; with rotation as much as with other random directions.

    Args:
        features: [N, D], N >= 2, any float dtype, finite, not all zero.
        generator: on the CPU; draws the directions.

    Returns:
        NaN where all embeddings coincide.

    Raises:
        ValueError: not a matrix with at least two rows.
        DataError: not finite, or all zero.
    """
    checked = checked_features(features)
    centred = checked - checked.mean(dim=0)
    if centred.norm() < FLOAT32_RESOLUTION * checked.norm():
        return math.nan
    scale = centred.square().mean().sqrt()
    directions = random_directions(checked.shape[1], SIGREG_DIRECTIONS, generator)
    return float(sigreg(centred / scale, directions))
