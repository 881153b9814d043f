"""Embeddings with known spectra, for tests of the label-free metrics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def centred_axes(frames: int, count: int, seed: int = 0) -> Tensor:
    """`count` orthonormal columns that sum to 0 each: float64 [frames, count], `count` < `frames`."""
    drawn = torch.randn(frames, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with_constant = torch.cat((torch.ones(frames, 1, dtype=torch.float64), drawn), dim=1)
    orthonormal, _ = torch.linalg.qr(with_constant)
    return orthonormal[:, 1:]


def rotation(features: int, seed: int = 0) -> Tensor:
    """A random rotation (or mirroring) of the feature space: float64 [features, features]."""
    drawn = torch.randn(features, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    orthogonal: Tensor = torch.linalg.qr(drawn)[0]
    return orthogonal


def with_eigenvalues(eigenvalues: Sequence[float] | Tensor, frames: int, seed: int = 0) -> Tensor:
    """Embeddings of mean 0 whose covariance has exactly these eigenvalues, in a rotated basis: float64 [frames, D]."""
    deviations = torch.as_tensor(eigenvalues, dtype=torch.float64).sqrt()
    features = len(deviations)
    return frames**0.5 * (centred_axes(frames, features, seed) * deviations) @ rotation(features, seed + 1)
