"""MAE (He, Chen, Xie, Li, Dollar, Girshick: Masked Autoencoders Are Scalable Vision Learners, CVPR 2022).

Shapes: N frames, T patches of which K stay visible, D features, E decoder features, p pixels a patch side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from serving.errors import ConfigError
from training.backbones import Encoder, ViTTiny
from training.distributed import gather
from training.methods.base import Method, MethodConfig, wide

# Added to a patch's variance, for patches of one colour.
EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class MAEConfig(MethodConfig):
    """MAE's settings: the share of patches that are hidden, and width, depth and heads of the decoder."""

    mask_ratio: float = 0.75
    decoder_width: int = 192
    decoder_depth: int = 4
    decoder_heads: int = 3

    def __post_init__(self) -> None:
        if self.views.count != 1:
            raise ConfigError(f"mae hides parts of one view of each frame, the view spec makes {self.views.count}")
        if not 0 < self.mask_ratio < 1:
            raise ConfigError(f"mae: mask_ratio must lie between 0 and 1, got {self.mask_ratio}")
        if min(self.decoder_width, self.decoder_depth, self.decoder_heads) < 1:
            raise ConfigError("mae: decoder_width, decoder_depth and decoder_heads must be positive")
        if self.decoder_width % 4 or self.decoder_width % self.decoder_heads:
            raise ConfigError(
                f"mae: decoder_width must be a multiple of 4 and of decoder_heads, got {self.decoder_width} and "
                f"{self.decoder_heads}"
            )


class MAE(Method):
    """Encode the patches that are left visible; from them and their places, draw the hidden ones."""

    Config = MAEConfig

    def __init__(self, encoder: Encoder, config: MAEConfig) -> None:
        super().__init__(encoder, config)
        if not isinstance(encoder, ViTTiny):
            raise ConfigError(
                f"mae drops patches, which {encoder.name} cannot: take vit_tiny, or masked_conv, its counterpart for "
                "convolutions"
            )
        size = config.views.views[0].size
        encoder.check_view_size(size)
        self.mask_ratio = config.mask_ratio
        self.patch = encoder.stride
        side = size // self.patch
        self.visible = max(1, round(side * side * (1 - config.mask_ratio)))
        if self.visible >= side * side:
            raise ConfigError(f"mae: of {side * side} patches, mask_ratio {config.mask_ratio} hides none")
        width = config.decoder_width
        self.narrow = nn.Linear(encoder.feature_dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.position: Tensor
        self.register_buffer("position", sincos_position(side, width), persistent=False)
        self.decoder = nn.Sequential(
            *(Block(width, config.decoder_heads, qkv_bias=True) for _ in range(config.decoder_depth)),
            nn.LayerNorm(width),
            nn.Linear(width, 3 * self.patch**2),
        )

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        encoder: ViTTiny = self.encoder  # type: ignore[assignment] # checked when built
        tokens = encoder.embed(views[0])
        places = tokens.shape[1]
        order = self.draw_uniform(len(tokens), places).argsort(1).to(tokens.device)
        kept = order[:, : self.visible]
        seen = encoder.encode(tokens.gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[2])))
        predicted = self._decode(seen, kept, places)
        hidden = torch.ones((len(tokens), places), device=tokens.device).scatter_(1, kept, 0.0)
        target = normalise_patches(patchify(views[0], self.patch))
        return masked_patch_loss(gather(predicted), gather(target), gather(hidden))

    def _decode(self, seen: Tensor, kept: Tensor, places: int) -> Tensor:
        """Encoded visible tokens [N, K, D] and their places -> pixels [N, T, 3 p p] of all patches."""
        visible = self.narrow(seen)
        tokens = self.mask_token.to(visible.dtype).expand(len(visible), places, -1)
        tokens = tokens.scatter(1, kept[:, :, None].expand_as(visible), visible)
        pixels: Tensor = self.decoder(tokens + self.position)
        return pixels


def patchify(images: Tensor, patch: int) -> Tensor:
    """[N, 3, S, S] -> [N, T, 3 p p], patches row by row, in each the channels of a pixel side by side."""
    n, channels, height, width = images.shape
    cut = images.reshape(n, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, channels * patch * patch)


def normalise_patches(patches: Tensor) -> Tensor:
    """[N, T, 3 p p] -> the same with mean 0 and deviation 1 in each patch (unbiased variance plus 1e-6)."""
    return (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + EPSILON).sqrt()


def masked_patch_loss(predicted: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over the pixels of the hidden patches (He et al. 2022, section 3).

    Args:
        predicted, target: [N, T, 3 p p]; any float dtype.
        hidden: [N, T], 1 where a patch was hidden, else 0.

    Returns:
        float32 scalar (float64 for float64 input), computed in that precision under autocast too.

    Raises:
        ValueError: the shapes do not fit, or nothing is hidden.
    """
    if predicted.shape != target.shape or hidden.shape != predicted.shape[:2] or not bool(hidden.any()):
        raise ValueError(
            f"predictions, targets and hidden places do not fit, or none is hidden: {tuple(predicted.shape)}, "
            f"{tuple(target.shape)}, {tuple(hidden.shape)}"
        )
    with torch.autocast(predicted.device.type, enabled=False):
        error = (wide(predicted) - wide(target)).square().mean(2)
        return (error * hidden).sum() / hidden.sum()


def sincos_position(side: int, width: int) -> Tensor:
    """Fixed position embedding of a side x side grid, float32 [1, side * side, width] (Vaswani et al. 2017, in 2-D).

    The first half of the features says the row, the second the column; in each half sines come before cosines, of
    frequencies 10000^(-i / (width / 4)).
    """
    frequencies = torch.exp(torch.arange(width // 4) * (-math.log(10000.0) / (width // 4)))
    angles = torch.arange(side)[:, None] * frequencies
    line = torch.cat((angles.sin(), angles.cos()), dim=1)
    rows = line[:, None, :].expand(side, side, -1)
    columns = line[None, :, :].expand(side, side, -1)
    return torch.cat((rows, columns), dim=2).reshape(1, side * side, width)
