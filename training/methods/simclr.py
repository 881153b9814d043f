"""SimCLR (Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning, ICML 2020).

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


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(MethodConfig):
    """SimCLR's settings; `projector` holds the hidden and output widths of the head."""

    temperature: float = 0.2
    projector: tuple[int, ...] = (2048, 128)

    def __post_init__(self) -> None:
        if self.views.count != 2:
            raise ConfigError(f"simclr compares two views of each frame, the view spec makes {self.views.count}")
        if not self.temperature > 0:
            raise ConfigError(f"simclr: temperature must be positive, got {self.temperature}")


class SimCLR(Method):
    """Two views of a frame shall be each other's nearest among all views of the batch."""

    Config = SimCLRConfig

    def __init__(self, encoder: Encoder, config: SimCLRConfig) -> None:
        super().__init__(encoder, config)
        self.temperature = config.temperature
        self.projector: nn.Module = build_mlp((encoder.feature_dim, *config.projector), norm_output=True)

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        # One pass over both views, as published: batch norm then sees them together.
        first, second = self.projector(self.encoder(torch.cat(views))).chunk(2)
        return nt_xent(gather(first), gather(second), temperature=self.temperature)


def nt_xent(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy (Chen et al. 2020, equation 1), mean over all 2N views.

        l(i, j) = -log( exp(sim(z_i, z_j) / tau) / sum_{k != i} exp(sim(z_i, z_k) / tau) )

    where sim is the cosine, (i, j) are the two views of a frame, and k runs over all 2N views but i.

    Args:
        first, second: [N, P] projections of the two views, in the same order; any float dtype.
        temperature: tau > 0.

    Returns:
        float32 scalar (float64 for float64 input), computed in that precision under autocast too.

    Raises:
        ValueError: the shapes differ, or N < 2, where there is no negative.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise ValueError(f"two projections [N, P] with N >= 2 needed: {tuple(first.shape)}, {tuple(second.shape)}")
    n = len(first)
    with torch.autocast(first.device.type, enabled=False):
        z = functional.normalize(wide(torch.cat((first, second))), dim=1)
        similarity = z @ z.T / temperature
        itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
        partner = torch.arange(2 * n, device=z.device).roll(n)
        return functional.cross_entropy(similarity.masked_fill(itself, float("-inf")), partner)
