"""The interface between a self-supervised method and the pretraining loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.backbones import Encoder
from training.data.augment import ViewSpec


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What every method has to be told: which views it wants."""

    views: ViewSpec


class Method(nn.Module, ABC):
    """One self-supervised method: encoder, heads, loss.

    Attributes:
        Config: the class of this method's config.
        encoder: all that survives pretraining.
        views: which augmented views the loop must make of each frame.
        generator: the source of whatever the method draws itself (a mask, say), on the CPU. The loop seeds it
            anew before each step, so that a resumed run draws the same.
    """

    Config: ClassVar[type[MethodConfig]]

    def __init__(self, encoder: Encoder, config: MethodConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.views = config.views
        self.generator = torch.Generator()

    @abstractmethod
    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        """Loss of one batch, float32 scalar.

        Args:
            views: one float32 [N, 3, s, s] for each view of `self.views`, in its order.
            progress: share of the run's steps that are done, from 0 to 1.
        """

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step, for what gradients do not move (an averaged teacher, say)."""
