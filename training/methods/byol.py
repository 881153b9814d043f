"""BYOL (Grill et al.: Bootstrap Your Own Latent, NeurIPS 2020).

Shapes: N frames, D features, P projected features.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from serving.errors import ConfigError
from training.backbones import Encoder
from training.distributed import gather
from training.heads import build_mlp
from training.methods.base import Method, MethodConfig, wide
from training.optim import average_into, cosine_ramp


@dataclass(frozen=True, kw_only=True)
class BYOLConfig(MethodConfig):
    """BYOL's settings.

    Attributes:
        momentum: of the target network at the start; it rises to 1 along half a cosine.
        projector, predictor: hidden and output widths of the two heads; the output widths agree.
    """

    momentum: float = 0.99
    projector: tuple[int, ...] = (4096, 256)
    predictor: tuple[int, ...] = (4096, 256)

    def __post_init__(self) -> None:
        if self.views.count != 2:
            raise ConfigError(f"byol compares two views of each frame, the view spec makes {self.views.count}")
        if not 0 <= self.momentum <= 1:
            raise ConfigError(f"byol: momentum must lie in [0, 1], got {self.momentum}")
        if not self.projector or self.projector[-1:] != self.predictor[-1:]:
            raise ConfigError(
                f"byol: the predictor predicts projections, so it must end as wide as the projector does, "
                f"{self.projector} and {self.predictor}"
            )


class BYOL(Method):
    """From one view, predict what an averaged copy of the network makes of the other."""

    Config = BYOLConfig

    def __init__(self, encoder: Encoder, config: BYOLConfig) -> None:
        super().__init__(encoder, config)
        self.momentum = config.momentum
        self.projector: nn.Module = build_mlp((encoder.feature_dim, *config.projector), norm_output=False)
        self.predictor: nn.Module = build_mlp((config.projector[-1], *config.predictor), norm_output=False)
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        predictions = [gather(self.predictor(self.projector(self.encoder(view)))) for view in views]
        with torch.no_grad():
            targets = [gather(self.target_projector(self.target_encoder(view))) for view in views]
        return byol_loss(predictions[0], targets[1]) + byol_loss(predictions[1], targets[0])

    def after_step(self, progress: float) -> None:
        momentum = cosine_ramp(self.momentum, 1.0, progress)
        average_into(self.target_encoder, self.encoder, momentum=momentum)
        average_into(self.target_projector, self.projector, momentum=momentum)


def byol_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Squared distance of unit vectors, 2 - 2 cos(p, z), mean over frames (Grill et al. 2020, equation 2).

    Args:
        predictions, targets: [N, P], in the same order; any float dtype. Targets are taken as constants.

    Returns:
        float32 scalar (float64 for float64 input), computed in that precision under autocast too.

    Raises:
        ValueError: the shapes differ.
    """
    if predictions.shape != targets.shape or predictions.ndim != 2:
        raise ValueError(f"predictions and targets [N, P] needed: {tuple(predictions.shape)}, {tuple(targets.shape)}")
    with torch.autocast(predictions.device.type, enabled=False):
        cosine = functional.cosine_similarity(wide(predictions), wide(targets.detach()), dim=1)
        return (2 - 2 * cosine).mean()
