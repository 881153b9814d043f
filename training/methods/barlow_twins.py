"""Barlow Twins (Zbontar, Jing, Misra, LeCun, Deny: Self-Supervised Learning via Redundancy Reduction, ICML 2021).

Shapes: N frames, D features, P projected features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from serving.errors import ConfigError
from training.backbones import Encoder
from training.distributed import gather
from training.heads import build_mlp
from training.methods.base import Method, MethodConfig, wide

# Added to variances before their root, as batch norm does.
EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsConfig(MethodConfig):
    """Barlow Twins' settings.

    Attributes:
        redundancy_weight: lambda, of the terms off the diagonal.
        scale: of the whole loss; the authors' code has 0.1 for LARS, which is sensitive to it.
        projector: hidden and output widths of the head.
    """

    redundancy_weight: float = 5e-3
    scale: float = 0.1
    projector: tuple[int, ...] = (2048, 2048, 2048)

    def __post_init__(self) -> None:
        if self.views.count != 2:
            raise ConfigError(f"barlow_twins compares two views of each frame, the view spec makes {self.views.count}")
        if not self.redundancy_weight > 0 or not self.scale > 0:
            raise ConfigError(
                "barlow_twins: redundancy_weight and scale must be positive, got "
                f"{self.redundancy_weight} and {self.scale}"
            )


class BarlowTwins(Method):
    """Each projected feature shall agree between the views and tell nothing that another one tells."""

    Config = BarlowTwinsConfig

    def __init__(self, encoder: Encoder, config: BarlowTwinsConfig) -> None:
        super().__init__(encoder, config)
        self.redundancy_weight, self.scale = config.redundancy_weight, config.scale
        self.projector: nn.Module = build_mlp((encoder.feature_dim, *config.projector), norm_output=False)

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        # View by view, as published: each has batch statistics of its own.
        first, second = (gather(self.projector(self.encoder(view))) for view in views)
        return self.scale * barlow_twins_loss(first, second, redundancy_weight=self.redundancy_weight)


def barlow_twins_loss(first: Tensor, second: Tensor, *, redundancy_weight: float) -> Tensor:
    """Redundancy reduction (Zbontar et al. 2021, equations 1 and 2).

        L = sum_i (1 - C_ii)^2 + lambda sum_i sum_{j != i} C_ij^2,   C = A^T B / N

    with A and B the projections of the two views, each feature standardised over the batch (biased variance plus 1e-5).

    Args:
        first, second: [N, P] projections of the two views, in the same order; any float dtype.
        redundancy_weight: lambda > 0.

    Returns:
        float32 scalar (float64 for float64 input), computed in that precision under autocast too.

    Raises:
        ValueError: the shapes differ, or N < 2.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise ValueError(f"two projections [N, P] with N >= 2 needed: {tuple(first.shape)}, {tuple(second.shape)}")
    with torch.autocast(first.device.type, enabled=False):
        correlation = _standardise(wide(first)).T @ _standardise(wide(second)) / len(first)
        diagonal = correlation.diagonal()
        off_diagonal = correlation.square().sum() - diagonal.square().sum()
        return (1 - diagonal).square().sum() + redundancy_weight * off_diagonal


def _standardise(z: Tensor) -> Tensor:
    centred = z - z.mean(0)
    return centred / (centred.square().mean(0) + EPSILON).sqrt()
