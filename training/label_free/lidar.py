"""LiDAR: how many directions tell frames apart better than they tell views of one frame apart.

Shapes: N frames, V views of each, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.label_free.checks import checked_features
from training.label_free.spectrum import FLOAT32_RESOLUTION, effective_rank

# Keeps the covariance within frames invertible. In squared units of the embeddings, as in the paper.
LIDAR_DELTA = 1e-4


def lidar(views: Tensor) -> float:
    """LiDAR (Thilak et al.: ICLR 2024, equations 1 and 2), from 1 to min(N - 1, D).

    Each frame is a class, its augmented views are the samples of it. `effective_rank` of the eigenvalues of

        S_w^-1/2 S_b S_w^-1/2,   S_b = mean_n (m_n - m)(m_n - m)^T
                                 S_w = mean_nv (z_nv - m_n)(z_nv - m_n)^T + delta I,   delta = 1e-4

    with m_n the mean over the views of frame n and m the mean of those. Does not change with shift, rotation, order
    of frames or of views. It changes with scale, through delta alone: little as long as the variance within frames
    is well above 1e-4. Bounded by N - 1, so compare values of equal N and V only.

    Args:
        views: [N, V, D], N, V >= 2, any float dtype, finite, not all zero.

    Returns:
        NaN where all frames have the same mean.

    Raises:
        ValueError: not of that shape.
        DataError: not finite, or all zero.
    """
    if views.ndim != 3 or len(views) < 2 or views.shape[1] < 2 or views.shape[2] < 1:
        raise ValueError(f"views must be [N, V, D] with N, V >= 2, got {tuple(views.shape)}")
    z = checked_features(views.flatten(0, 1)).view(views.shape)
    frame_means = z.mean(dim=1)
    between = frame_means - frame_means.mean(dim=0)
    if between.norm() < FLOAT32_RESOLUTION * frame_means.norm():
        return math.nan
    within = (z - frame_means[:, None]).flatten(0, 1)
    scatter = within.T @ within / len(within) + LIDAR_DELTA * torch.eye(z.shape[2], dtype=torch.float64)
    # With S_w = L L^T, L^-1 S_b L^-T has the eigenvalues of S_w^-1/2 S_b S_w^-1/2: the squared singular values below.
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(scatter), between.T, upper=False)
    return effective_rank(torch.linalg.svdvals(whitened).square())
