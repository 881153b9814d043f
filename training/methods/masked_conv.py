"""Masked image modelling for convolutional encoders: this project's counterpart of MAE, which needs a transformer.

MAE leaves hidden patches out, which a convolution cannot. As in SimMIM (Xie et al., CVPR 2022) they are painted over
with a learned colour instead, the encoder sees the whole picture, a one-layer decoder on its feature map draws it, and
the loss is the mean absolute error over hidden pixels. It is not a published method on ResNets.

Shapes: N frames, S pixels a side, D features, h x w places of the feature map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from serving.errors import ConfigError
from training.backbones import Encoder
from training.distributed import gather
from training.methods.base import Method, MethodConfig, wide


@dataclass(frozen=True, kw_only=True)
class MaskedConvConfig(MethodConfig):
    """Settings: side of the hidden patches in pixels, and the share of them that are hidden."""

    patch: int = 8
    mask_ratio: float = 0.6

    def __post_init__(self) -> None:
        if self.views.count != 1:
            raise ConfigError(
                f"masked_conv hides parts of one view of each frame, the view spec makes {self.views.count}"
            )
        size = self.views.views[0].size
        if self.patch < 1 or size % self.patch:
            raise ConfigError(f"masked_conv: views of {size} px cannot be cut into patches of {self.patch} px")
        patches = (size // self.patch) ** 2
        if not 0 < self.mask_ratio < 1 or not 0 < round(self.mask_ratio * patches) < patches:
            raise ConfigError(f"masked_conv: mask_ratio {self.mask_ratio} must hide some patches and leave some")


class MaskedConv(Method):
    """Draw the parts of a picture that were painted over."""

    Config = MaskedConvConfig

    def __init__(self, encoder: Encoder, config: MaskedConvConfig) -> None:
        super().__init__(encoder, config)
        self.patch, self.mask_ratio = config.patch, config.mask_ratio
        self.mask_token = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.decoder = nn.Sequential(
            nn.Conv2d(encoder.feature_dim, 3 * encoder.stride**2, kernel_size=1), nn.PixelShuffle(encoder.stride)
        )

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        images = views[0]
        hidden = self._draw_mask(len(images), images.shape[-1]).to(images.device)
        drawn = self.decoder(self.encoder.feature_map(torch.lerp(images, self.mask_token, hidden)))
        # Where the size is no multiple of the stride, the last places reach beyond the picture.
        drawn = drawn[:, :, : images.shape[-1], : images.shape[-1]]
        return masked_pixel_loss(gather(drawn), gather(images), gather(hidden))

    def _draw_mask(self, n: int, size: int) -> Tensor:
        """float32 [n, 1, size, size], 1 where hidden: the same number of patches in every picture."""
        side = size // self.patch
        ranks = self.draw_uniform(n, side * side).argsort(1).argsort(1)
        hidden = (ranks < round(self.mask_ratio * side * side)).float().view(n, 1, side, side)
        return functional.interpolate(hidden, scale_factor=self.patch, mode="nearest")


def masked_pixel_loss(drawn: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
    """Mean absolute error over hidden pixels and their channels (Xie et al. 2022, section 3.4).

    Args:
        drawn, images: [N, 3, S, S]; any float dtype.
        hidden: [N, 1, S, S], 1 where a pixel was hidden, else 0.

    Returns:
        float32 scalar (float64 for float64 input), computed in that precision under autocast too.

    Raises:
        ValueError: the shapes do not fit, or nothing is hidden.
    """
    one_channel = (*images.shape[:1], 1, *images.shape[2:])
    if images.ndim != 4 or drawn.shape != images.shape or hidden.shape != one_channel or not bool(hidden.any()):
        raise ValueError(
            f"pictures and hidden places do not fit, or none is hidden: {tuple(drawn.shape)}, {tuple(images.shape)}, "
            f"{tuple(hidden.shape)}"
        )
    with torch.autocast(drawn.device.type, enabled=False):
        error = (wide(drawn) - wide(images)).abs()
        return (error * hidden).sum() / (images.shape[1] * hidden.sum())
