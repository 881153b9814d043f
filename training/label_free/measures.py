"""All label-free metrics of one set of embeddings, and which way each is expected to point.

Shapes: N frames, V views of each, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from training.label_free.intrinsic import idest
from training.label_free.lidar import lidar
from training.label_free.spectrum import (
    alpha_req_of,
    covariance_eigenvalues,
    effective_rank,
    nesum_of,
    singular_values,
    stable_rank_of,
)
from training.label_free.spread import self_cluster, sigreg_statistic

# Whether a probe is expected to do better where the metric is higher (1) or lower (-1), as the metric's authors say;
# 0: neither, alpha-ReQ is expected to be best at 1. In the order of every table.
EXPECTED_SIGN: Mapping[str, int] = MappingProxyType(
    {
        "rankme": 1,
        "alpha_req": 0,
        "nesum": 1,
        "stable_rank": 1,
        "self_cluster": -1,
        "lidar": 1,
        "idest": -1,
        "sigreg": -1,
    }
)

ALPHA_BEST = 1.0


def measure_all(embeddings: Tensor, *, generator: torch.Generator, views: Tensor | None = None) -> dict[str, float]:
    """Every metric of `EXPECTED_SIGN` by name, in its order; "lidar" only if `views` are given.

    Computed in float64 on the CPU. The same generator state gives the same numbers. "idest" is measured on 4,000
    frames at most, drawn at random, the others on all. Compare metrics of equal N only: RankMe, NESum, stable rank,
    LiDAR and IdEst are bounded by it or drift with it, and SIGReg's statistic grows in proportion to it.

    Args:
        embeddings: [N, D], N >= 32, D >= 2, any float dtype, finite, not all zero.
        generator: on the CPU; draws IdEst's subsets, then SIGReg's directions.
        views: [N', V, D] embeddings of V >= 2 augmented views of N' >= 2 frames.

    Returns:
        NaN for a metric that these embeddings leave undefined (each metric's docstring says when): collapsed
        embeddings have no dimension, and that is a finding, not an error.

    Raises:
        ValueError: not of these shapes.
        DataError: not finite, or all zero.
    """
    sigma, eigenvalues = singular_values(embeddings), covariance_eigenvalues(embeddings)
    measured = {
        "rankme": effective_rank(sigma),
        "alpha_req": alpha_req_of(eigenvalues),
        "nesum": nesum_of(eigenvalues),
        "stable_rank": stable_rank_of(sigma),
        "self_cluster": self_cluster(embeddings),
        "idest": idest(embeddings, generator),
        "sigreg": sigreg_statistic(embeddings, generator),
    }
    if views is not None:
        measured["lidar"] = lidar(views)
    return {name: measured[name] for name in EXPECTED_SIGN if name in measured}


def as_quality(name: str, value: float) -> float:
    """A metric's value turned so that higher is expected to be better: negated where lower is, -|alpha - 1| for alpha.

    Raises:
        ValueError: no metric of that name.
    """
    if name not in EXPECTED_SIGN:
        raise ValueError(f"no label-free metric is called {name!r}; there are {', '.join(EXPECTED_SIGN)}")
    return EXPECTED_SIGN[name] * value if EXPECTED_SIGN[name] else -abs(value - ALPHA_BEST)
