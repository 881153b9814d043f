"""Encoders: what pretraining leaves, without heads.

Shapes: N frames, S pixels a side, D features, h x w places of the feature map, T = h w tokens.

Encoders are built for frames of one size and take smaller views in pretraining, which cost less.

The pooled features of every encoder here are the plain mean of its feature map. A linear probe can
therefore be applied at each place, and the mean of that evidence map is the probe's logit, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from serving.errors import ConfigError

# In views of 16 px and less the strided convolution of ResNet's last stage sees one place. There is nothing to convolve
# there, and oneDNN's bfloat16 kernel for its weight gradient (torch 2.15, AVX-512) reads memory that nobody wrote.
SMALLEST_RESNET_VIEW = 17


class Encoder(nn.Module):
    """Normalised frames -> feature map -> its mean.

    Attributes:
        name: the key of `ENCODERS` that built it.
        image_size: S, the side of the square frames that it takes, in pixels.
        stride: pixels of a frame to one place of the map.
        feature_dim: D.
        map_shape: (h, w) for frames of S pixels.
    """

    def __init__(self, name: str, image_size: int, stride: int, feature_dim: int) -> None:
        super().__init__()
        self.name = name
        self.image_size = image_size
        self.stride = stride
        self.feature_dim = feature_dim
        side = -(-image_size // stride)
        self.map_shape = (side, side)

    def check_view_size(self, size: int) -> None:
        """Raise `ConfigError` unless views of `size` pixels a side can be encoded."""
        raise NotImplementedError

    def feature_map(self, x: Tensor) -> Tensor:
        """float32 [N, 3, S, S], normalised -> [N, D, h, w]; views of another size give a map of another size."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """float32 [N, 3, S, S], normalised -> [N, D]: the mean of the feature map over places."""
        return self.feature_map(x).mean((2, 3))


class ResNet18(Encoder):
    """timm's ResNet-18 with the ImageNet stem (7x7 stride 2, max-pool): h = w = ceil(S / 32), D = 512."""

    def __init__(self, image_size: int) -> None:
        if image_size < 32:
            raise ConfigError(f"resnet18 needs frames of at least 32 px, got image_size={image_size}")
        super().__init__("resnet18", image_size, stride=32, feature_dim=512)
        self.trunk = _timm_network("resnet18", global_pool="")

    def check_view_size(self, size: int) -> None:
        if size < SMALLEST_RESNET_VIEW:
            raise ConfigError(
                f"resnet18 takes views of at least {SMALLEST_RESNET_VIEW} px, so that its last stage sees more than "
                f"one place, got {size} px"
            )

    def feature_map(self, x: Tensor) -> Tensor:
        features: Tensor = self.trunk.forward_features(x)
        return features


class ViTTiny(Encoder):
    """timm's ViT-Tiny, D = 192, no class token; patches of 16 px from 192 px up, else of 8 px.

    The final norm is applied to each token before the mean (timm would move it behind the mean), since only
    then is the pooled feature the mean of the map. Smaller frames take smaller patches to keep enough tokens.
    Views of another size than the frames' see the position embedding resampled to theirs, as DINO does.
    """

    def __init__(self, image_size: int) -> None:
        patch = 16 if image_size >= 192 else 8
        if image_size < patch or image_size % patch:
            raise ConfigError(
                f"vit_tiny takes patches of {patch} px at this size, so image_size must be a multiple of it, "
                f"got {image_size}"
            )
        super().__init__("vit_tiny", image_size, stride=patch, feature_dim=192)
        self.trunk = _timm_network(
            "vit_tiny_patch16_224",
            img_size=image_size,
            patch_size=patch,
            class_token=False,
            global_pool="avg",
            fc_norm=False,
        )
        # Sizes are checked here, where the message can name a remedy.
        self.trunk.patch_embed.strict_img_size = False

    def check_view_size(self, size: int) -> None:
        if size < self.stride or size % self.stride:
            raise ConfigError(
                f"vit_tiny at image_size={self.image_size} cuts patches of {self.stride} px, so views must be a "
                f"multiple of that, got {size} px"
            )

    def embed(self, x: Tensor) -> Tensor:
        """float32 [N, 3, S, S], normalised -> tokens [N, T, D]: patches, projected, with their position added."""
        side = x.shape[-1] // self.stride
        patches: Tensor = self.trunk.patch_embed(x)
        return patches + self._position(side)

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens [N, T, D] of `embed`, all or some of them -> [N, T, D] after all blocks and the final norm."""
        encoded: Tensor = self.trunk.norm(self.trunk.blocks(tokens))
        return encoded

    def feature_map(self, x: Tensor) -> Tensor:
        side = x.shape[-1] // self.stride
        return self.encode(self.embed(x)).transpose(1, 2).reshape(len(x), self.feature_dim, side, side)

    def _position(self, side: int) -> Tensor:
        """The learned position embedding, [1, side * side, D]."""
        position: Tensor = self.trunk.pos_embed
        if (side, side) == self.map_shape:
            return position
        plane = position.float().transpose(1, 2).reshape(1, self.feature_dim, *self.map_shape)
        resampled = functional.interpolate(plane, size=(side, side), mode="bicubic", antialias=True)
        return resampled.flatten(2).transpose(1, 2)


def _timm_network(name: str, **settings: Any) -> Any:
    """A freshly initialised network of timm's without classifier; what it consists of is known to timm alone."""
    return timm.create_model(name, pretrained=False, num_classes=0, **settings)


ENCODERS: dict[str, Callable[[int], Encoder]] = {"resnet18": ResNet18, "vit_tiny": ViTTiny}


def build_encoder(name: str, *, image_size: int) -> Encoder:
    """A freshly initialised encoder; its weights come from torch's global generator (see `seeded_init`).

    Raises:
        ConfigError: unknown name, or a size that the encoder cannot take.
    """
    if name not in ENCODERS:
        raise ConfigError(f"no encoder {name!r}; there are {', '.join(ENCODERS)}")
    return ENCODERS[name](image_size)


@contextmanager
def seeded_init(seed: int) -> Iterator[None]:
    """Modules built inside get weights that depend on `seed` alone; torch's global generator stays as it was.

    The layers of torch and timm draw their initial weights from the global generator and take no other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
