"""Frames as the encoders take them. The same constants become nodes of the exported graph."""

from __future__ import annotations

import torch
from torch import Tensor

# Channel statistics of Sewer-ML's training frames, RGB in [0, 1] (Haurum and Moeslund, CVPR 2021).
MEAN: tuple[float, float, float] = (0.523, 0.453, 0.345)
STD: tuple[float, float, float] = (0.210, 0.199, 0.154)


def to_unit_range(frames: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [0, 1].

    Raises:
        TypeError: `frames` is not uint8, whose range alone is known.
    """
    if frames.dtype != torch.uint8:
        raise TypeError(f"frames must be uint8 [N, H, W, 3], got {frames.dtype} {tuple(frames.shape)}")
    return frames.permute(0, 3, 1, 2).float() / 255.0


def standardise(images: Tensor) -> Tensor:
    """float32 [N, 3, H, W] in [0, 1] -> the same with Sewer-ML's channel mean 0 and deviation 1."""
    mean = torch.tensor(MEAN, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    return (images - mean) / std


def normalise(frames: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W], ready for an encoder."""
    return standardise(to_unit_range(frames))
