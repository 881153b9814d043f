"""VISReg (Wu, Balestriero, Levine: Variance-Invariance-Sketching Regularization, arXiv 2606.02572).

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
from training.methods.base import Method, MethodConfig, encode_views
from training.methods.lejepa import GLOBAL_VIEWS, prediction_loss, stack_views
from training.sigreg import random_directions

# Added to deviations that are divided by.
EPSILON = 1e-4


@dataclass(frozen=True, kw_only=True)
class VISRegConfig(MethodConfig):
    """VISReg's settings: the weight of the regulariser against the prediction, in (0, 1), those of its three terms, and
    its number of directions; `projector` holds hidden and output widths of the head.

    The authors take a weight of 0.9 on large data sets and 0.6 on small ones.
    """

    weight: float = 0.6
    scale: float = 1.0
    shape: float = 1.0
    centre: float = 1.0
    directions: int = 1024
    projector: tuple[int, ...] = (2048, 2048, 128)

    def __post_init__(self) -> None:
        if self.views.count < GLOBAL_VIEWS:
            raise ConfigError(f"visreg compares two and more views of each frame, the spec makes {self.views.count}")
        if not 0 < self.weight < 1:
            raise ConfigError(f"visreg: weight must lie in (0, 1), got {self.weight}")
        if not all(weight >= 0 for weight in (self.scale, self.shape, self.centre)):
            raise ConfigError(
                f"visreg: the weights of its terms must not be negative, got {self.scale}, {self.shape}, {self.centre}"
            )
        if self.directions < 1:
            raise ConfigError(f"visreg: directions must be positive, got {self.directions}")


class VISReg(Method):
    """As LeJEPA, with spread, shape and centre of the projections held apart."""

    Config = VISRegConfig

    def __init__(self, encoder: Encoder, config: VISRegConfig) -> None:
        super().__init__(encoder, config)
        self.config = config
        self.projector: nn.Module = build_mlp((encoder.feature_dim, *config.projector), norm_output=False)

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        projected = [gather(z) for z in encode_views(self.encoder, self.projector, views)]
        directions = random_directions(projected[0].shape[1], self.config.directions, self.generator)
        return visreg_loss(projected, directions.to(projected[0].device), config=self.config)


def visreg_loss(projected: Sequence[Tensor], directions: Tensor, *, config: VISRegConfig) -> Tensor:
    """(1 - weight) * prediction + weight * (scale + shape + centre) (Wu et al. 2026, equations 1 to 8, algorithm 1).

    The three terms are means over views.

    Args:
        projected: V tensors [N, P]; the first two are of global views. Any float dtype.
        directions: [P, M] unit columns on which the shape is looked at.
        config: the weights.

    Returns:
        float32 scalar (float64 for float64 input), computed in that precision under autocast too.

    Raises:
        ValueError: fewer than two views, shapes differ, N < 2, or directions of another width.
    """
    z = stack_views(projected)
    if z.shape[1] < 2:
        raise ValueError(f"one frame has no spread: N >= 2 needed, got views of {tuple(z.shape[1:])}")
    if directions.ndim != 2 or len(directions) != z.shape[2] or directions.shape[1] == 0:
        raise ValueError(f"directions must be [{z.shape[2]}, M] with M >= 1, got {tuple(directions.shape)}")
    with torch.autocast(z.device.type, enabled=False):
        regulariser = (
            config.scale * scale_loss(z) + config.shape * shape_loss(z, directions.to(z.dtype))
            + config.centre * centre_loss(z)
        )  # fmt: skip
        return (1 - config.weight) * prediction_loss(z) + config.weight * regulariser


def scale_loss(z: Tensor) -> Tensor:
    """Mean of (1 - sigma)^2, with sigma the biased deviation over frames of [V, N, P] (equation 1)."""
    return (1 - z.std(1, correction=0)).square().mean()


def centre_loss(z: Tensor) -> Tensor:
    """Mean square of the mean over frames of [V, N, P] (equation 6)."""
    return z.mean(1).square().mean()


def shape_loss(z: Tensor, directions: Tensor) -> Tensor:
    """Sliced Wasserstein distance, squared, of standardised [V, N, P] to the standard Gaussian (equations 2 to 5).

    Sorted projections on each direction are compared with the Gaussian's quantiles at i / (N + 1). No gradient flows
    through the deviations, so that the shape is not mended by changing the scale.
    """
    deviation = z.std(1, correction=0, keepdim=True).detach()
    standardised = (z - z.mean(1, keepdim=True)) / (deviation + EPSILON)
    n = z.shape[1]
    levels = torch.arange(1, n + 1, device=z.device, dtype=torch.float64) / (n + 1)
    quantiles: Tensor = torch.special.ndtri(levels).to(z.dtype)
    return ((standardised @ directions).sort(1).values - quantiles[:, None]).square().mean()
