"""Encoders: what pretraining leaves, without heads.

Shapes: N frames, S pixels a side, D features, h x w places of the feature map.

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

from serving.errors import ConfigError


class Encoder(nn.Module):
    """Normalised frames -> feature map -> its mean.

    Attributes:
        name: the key of `ENCODERS` that built it.
        image_size: S, the side of the square frames that it takes, in pixels.
        feature_dim: D.
        map_shape: (h, w).
    """

    def __init__(self, name: str, image_size: int, feature_dim: int, map_shape: tuple[int, int]) -> None:
        super().__init__()
        self.name = name
        self.image_size = image_size
        self.feature_dim = feature_dim
        self.map_shape = map_shape

    def feature_map(self, x: Tensor) -> Tensor:
        """float32 [N, 3, S, S], normalised -> [N, D, h, w]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """float32 [N, 3, S, S], normalised -> [N, D]: the mean of the feature map over places."""
        return self.feature_map(x).mean((2, 3))


class ResNet18(Encoder):
    """timm's ResNet-18 with the ImageNet stem (7x7 stride 2, max-pool): h = w = ceil(S / 32), D = 512."""

    def __init__(self, image_size: int) -> None:
        if image_size < 32:
            raise ConfigError(f"resnet18 needs frames of at least 32 px, got image_size={image_size}")
        side = -(-image_size // 32)
        super().__init__("resnet18", image_size, 512, (side, side))
        self.trunk: Any = timm.create_model("resnet18", pretrained=False, num_classes=0, global_pool="")

    def feature_map(self, x: Tensor) -> Tensor:
        features: Tensor = self.trunk.forward_features(x)
        return features


class ViTTiny(Encoder):
    """timm's ViT-Tiny, D = 192, no class token; patches of 16 px from 192 px up, else of 8 px.

    The final norm is applied to each token before the mean (timm would move it behind the mean), since only
    then is the pooled feature the mean of the map. Smaller frames take smaller patches to keep enough tokens.
    """

    def __init__(self, image_size: int) -> None:
        patch = 16 if image_size >= 192 else 8
        if image_size < patch or image_size % patch:
            raise ConfigError(
                f"vit_tiny takes patches of {patch} px at this size, so image_size must be a multiple of it, "
                f"got {image_size}"
            )
        side = image_size // patch
        super().__init__("vit_tiny", image_size, 192, (side, side))
        self.trunk: Any = timm.create_model(
            "vit_tiny_patch16_224",
            pretrained=False,
            img_size=image_size,
            patch_size=patch,
            num_classes=0,
            class_token=False,
            global_pool="avg",
            fc_norm=False,
        )

    def feature_map(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.trunk.forward_features(x)
        return tokens.transpose(1, 2).reshape(len(x), self.feature_dim, *self.map_shape)


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
