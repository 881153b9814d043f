"""What embeddings must be before anything is measured on them."""

from __future__ import annotations

import torch
from torch import Tensor

from serving.errors import DataError


def checked_features(features: Tensor) -> Tensor:
    """The embeddings in float64 on the CPU, detached.

    Args:
        features: [N, D], N >= 2, D >= 1, any float dtype and device.

    Raises:
        ValueError: not a matrix with at least two rows.
        DataError: a value is NaN or infinite, or all are zero.
    """
    if features.ndim != 2 or features.numel() == 0:
        raise ValueError(f"embeddings must be [N, D], got {tuple(features.shape)}")
    if len(features) < 2:
        raise ValueError("embeddings of at least two frames are needed, got one")
    checked = features.detach().cpu().double()
    broken = int((~torch.isfinite(checked)).any(dim=1).sum())
    if broken:
        raise DataError(
            f"embeddings: {broken} of {len(checked)} hold NaN or infinity. The encoder has diverged; "
            "train it again with a lower learning rate"
        )
    if not checked.any():
        raise DataError(
            f"embeddings: all {len(checked)} are zero. The encoder has died; train it again with a lower learning rate"
        )
    return checked
