"""LeJEPA (Balestriero, LeCun: Provable and Scalable Self-Supervised Learning Without the Heuristics, arXiv 2511.08544).

Shapes: N frames, D features, P projected features, V views of which the first two are global, M directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from serving.errors import ConfigError
from training.backbones import Encoder
from training.distributed import gather
from training.heads import build_mlp
from training.methods.base import Method, MethodConfig, encode_views, wide
from training.sigreg import random_directions, sigreg

GLOBAL_VIEWS = 2


@dataclass(frozen=True, kw_only=True)
class LeJEPAConfig(MethodConfig):
    """LeJEPA's settings: the weight of SIGReg against the prediction, in (0, 1), and its number of directions;
    `projector` holds hidden and output widths of the head."""

    weight: float = 0.05
    directions: int = 1024
    projector: tuple[int, ...] = (2048, 2048, 128)

    def __post_init__(self) -> None:
        if self.views.count < GLOBAL_VIEWS:
            raise ConfigError(f"lejepa compares two and more views of each frame, the spec makes {self.views.count}")
        if not 0 < self.weight < 1:
            raise ConfigError(f"lejepa: weight must lie in (0, 1), got {self.weight}")
        if self.directions < 1:
            raise ConfigError(f"lejepa: directions must be positive, got {self.directions}")


class LeJEPA(Method):
    """All views of a frame lie near the mean of the global ones; all frames of a view form an isotropic Gaussian."""

    Config = LeJEPAConfig

    def __init__(self, encoder: Encoder, config: LeJEPAConfig) -> None:
        super().__init__(encoder, config)
        self.config = config
        self.projector: nn.Module = build_mlp((encoder.feature_dim, *config.projector), norm_output=False)

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        projected = [gather(z) for z in encode_views(self.encoder, self.projector, views)]
        directions = random_directions(projected[0].shape[1], self.config.directions, self.generator)
        return lejepa_loss(projected, directions.to(projected[0].device), weight=self.config.weight)


def lejepa_loss(projected: Sequence[Tensor], directions: Tensor, *, weight: float) -> Tensor:
    """(1 - weight) * prediction + weight * mean over views of SIGReg (Balestriero and LeCun 2025, section 5.1).

    Args:
        projected: V tensors [N, P]; the first two are of global views. Any float dtype.
        directions: [P, M] unit columns on which SIGReg looks.
        weight: lambda in (0, 1).

    Returns:
        float32 scalar (float64 for float64 input), computed in that precision under autocast too.

    Raises:
        ValueError: fewer than two views, shapes differ, or directions of another width.
    """
    z = stack_views(projected)
    with torch.autocast(z.device.type, enabled=False):
        spread = torch.stack([sigreg(view, directions.to(z.dtype)) for view in z]).mean()
        return (1 - weight) * prediction_loss(z) + weight * spread


def stack_views(projected: Sequence[Tensor]) -> Tensor:
    """V tensors [N, P] -> [V, N, P], in the precision that losses are computed in.

    Raises:
        ValueError: fewer than two views, or shapes differ.
    """
    shapes = [tuple(z.shape) for z in projected]
    if len(shapes) < GLOBAL_VIEWS or len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise ValueError(f"two or more views of one shape [N, P] needed, the first two global, got {shapes}")
    return wide(torch.stack(list(projected)))


def prediction_loss(z: Tensor) -> Tensor:
    """Mean squared distance of all views [V, N, P] to the mean of the first two, over views, frames and features."""
    return (z - z[:GLOBAL_VIEWS].mean(0)).square().mean()
