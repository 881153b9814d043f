"""VICReg (Bardes, Ponce, LeCun: Variance-Invariance-Covariance Regularization, ICLR 2022).

Shapes: N frames, D features, P projected features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from serving.errors import ConfigError
from training.backbones import Encoder
from training.distributed import gather
from training.heads import build_mlp
from training.methods.base import Method, MethodConfig, wide

# Added to variances before their root, whose slope is infinite at 0.
EPSILON = 1e-4


@dataclass(frozen=True, kw_only=True)
class VICRegConfig(MethodConfig):
    """VICReg's settings: the weights of its three terms; `projector` holds hidden and output widths of the head."""

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    projector: tuple[int, ...] = (2048, 2048, 2048)

    def __post_init__(self) -> None:
        if self.views.count != 2:
            raise ConfigError(f"vicreg compares two views of each frame, the view spec makes {self.views.count}")
        if not all(weight > 0 for weight in (self.invariance, self.variance, self.covariance)):
            raise ConfigError(
                "vicreg: the weights of its terms must be positive, got "
                f"{self.invariance}, {self.variance}, {self.covariance}"
            )


class VICReg(Method):
    """Projections agree between the views, spread by at least 1 in every feature, and are uncorrelated."""

    Config = VICRegConfig

    def __init__(self, encoder: Encoder, config: VICRegConfig) -> None:
        super().__init__(encoder, config)
        self.weights = (config.invariance, config.variance, config.covariance)
        self.projector: nn.Module = build_mlp((encoder.feature_dim, *config.projector), norm_output=False)

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        first, second = (gather(self.projector(self.encoder(view))) for view in views)
        invariance, variance, covariance = self.weights
        return vicreg_loss(first, second, invariance=invariance, variance=variance, covariance=covariance)


def vicreg_loss(first: Tensor, second: Tensor, *, invariance: float, variance: float, covariance: float) -> Tensor:
    """Variance, invariance and covariance (Bardes et al. 2022, equations 1 to 6).

        s(A, B) = mean (A - B)^2                        over frames and features
        v(Z)    = mean_j max(0, 1 - sqrt(Var(Z_j) + 1e-4))
        c(Z)    = sum_{i != j} Cov(Z)_ij^2 / P
        L       = invariance s(A, B) + variance (v(A) + v(B)) / 2 + covariance (c(A) + c(B))

    with unbiased variances and covariances. The mean over features in s and the half in v are those of the authors'
    code, for which the published weights 25, 25 and 1 are meant; the paper's equations have neither.

    Args:
        first, second: A and B, [N, P] projections of the two views, in the same order; any float dtype.
        invariance, variance, covariance: weights of the terms.

    Returns:
        float32 scalar (float64 for float64 input), computed in that precision under autocast too.

    Raises:
        ValueError: the shapes differ, or N < 2.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise ValueError(f"two projections [N, P] with N >= 2 needed: {tuple(first.shape)}, {tuple(second.shape)}")
    with torch.autocast(first.device.type, enabled=False):
        a, b = wide(first), wide(second)
        spread = (_variance_hinge(a) + _variance_hinge(b)) / 2
        return (
            invariance * functional.mse_loss(a, b)
            + variance * spread
            + covariance * (_covariance_penalty(a) + _covariance_penalty(b))
        )


def _variance_hinge(z: Tensor) -> Tensor:
    return functional.relu(1 - (z.var(0) + EPSILON).sqrt()).mean()


def _covariance_penalty(z: Tensor) -> Tensor:
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]
