"""IdEst: the intrinsic dimension of embeddings, from how their minimum spanning tree grows.

Shapes: N frames, D features, n frames of a subset.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.label_free.checks import checked_features
from training.label_free.spectrum import FLOAT32_RESOLUTION

# Time and memory are quadratic in the number of frames; more of them are left out at random.
IDEST_FRAMES = 4000
IDEST_FEWEST = 32
# Subsets of N / 8, 5 N / 32, ... and 31 N / 32 frames.
SMALLEST, STEP = 1 / 8, 1 / 32


def idest(features: Tensor, generator: torch.Generator) -> float:
    """IdEst (Mordacq, Kalogeiton, Oudot: ICML 2026, arXiv:2606.03338, algorithm 1): the dimension dim_MST.

    The minimum spanning tree of n points of a d-dimensional manifold has a length that grows as n^((d - 1) / d)
    (Costa and Hero 2006; equation 3 of the paper). So for random subsets of growing size n the logarithm of the
    tree's length is regressed on log n, and

        d = 1 / (1 - slope)

    Not TwoNN (Facco et al. 2017) nor the nearest-neighbour likelihood (Levina and Bickel 2004): IdEst is defined on
    trees, and the paper shows that the other two, which take points for a locally even Poisson process, fail on
    embeddings. As they do, it falls short of high dimensions (of 20 it sees some 15 in 4,000 points).

    The paper takes subsets of 50,000 frames and leaves the sizes open; here it is at most 4,000 frames, drawn by
    `generator`, and 28 subsets from N / 8 to 31 N / 32. Euclidean distances of the embeddings as they are. Does
    not change with scale, shift or rotation.

    Args:
        features: [N, D], N >= 32, any float dtype, finite, not all zero.
        generator: on the CPU; draws the subsets.

    Returns:
        NaN where the tree has no length, or one that outgrows every dimension (slope >= 1).

    Raises:
        ValueError: not a matrix with at least 32 rows.
        DataError: not finite, or all zero.
    """
    checked = checked_features(features)
    if len(checked) < IDEST_FEWEST:
        raise ValueError(f"an intrinsic dimension needs at least {IDEST_FEWEST} embeddings, got {len(checked)}")
    checked = checked[torch.randperm(len(checked), generator=generator)[:IDEST_FRAMES]]
    distances = _distances(checked)
    total = len(checked)
    sizes = range(int(total * SMALLEST), total, int(total * STEP))
    subsets = (torch.randperm(total, generator=generator)[:size].numpy() for size in sizes)
    lengths = np.array([tree_length(distances, subset) for subset in subsets])
    if not lengths.all():
        return math.nan
    slope = float(np.polyfit(np.log(sizes), np.log(lengths), 1)[0])
    return 1 / (1 - slope) if slope < 1 else math.nan


def tree_length(distances: NDArray[np.float64], subset: NDArray[np.int64]) -> float:
    """Length of the minimum spanning tree of some points, by Prim's algorithm, O(n^2).

    Library functions for sparse graphs take a distance of 0 for a missing edge, which duplicates do not survive.

    Args:
        distances: [N, N], symmetric.
        subset: [n], the points to connect, each once, n >= 1.
    """
    outside = subset[1:].copy()
    nearest = distances[subset[0], outside]
    length = 0.0
    while len(outside):
        place = int(nearest.argmin())
        length += float(nearest[place])
        joined = outside[place]
        # The last point takes the place of the joined one, so that what is left stays in one piece.
        outside[place], nearest[place] = outside[-1], nearest[-1]
        outside, nearest = outside[:-1], nearest[:-1]
        np.minimum(nearest, distances[joined, outside], out=nearest)
    return length


def _distances(points: Tensor) -> NDArray[np.float64]:
    """Euclidean distances [N, N]; 0 where they are no more than rounding."""
    centred = points - points.mean(dim=0)
    # By one matrix product, in a fraction of the time that differences take.
    squares = centred.square().sum(dim=1)
    squared = torch.addmm(squares[:, None] + squares, centred, centred.T, alpha=-2).clamp_(min=0)
    squared[squared < (FLOAT32_RESOLUTION * points.norm(dim=1).max()) ** 2] = 0.0
    return squared.sqrt_().numpy()
