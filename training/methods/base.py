"""The interface between a self-supervised method and the pretraining loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.backbones import Encoder
from training.data.augment import ViewSpec
from training.distributed import draw_uniform


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What every method has to be told: which views it wants."""

    views: ViewSpec


def wide(x: Tensor) -> Tensor:
    """In the precision that losses are computed in: float64 as it is, everything else as float32."""
    return x if x.dtype == torch.float64 else x.float()


def encode_views(encoder: nn.Module, head: nn.Module, views: list[Tensor]) -> list[Tensor]:
    """`head(encoder(view))` for every view, [N, P] each; neighbours of one size pass together, as one batch."""
    outputs: list[Tensor] = []
    for _, group in groupby(views, key=lambda view: view.shape[-1]):
        same = list(group)
        outputs += head(encoder(torch.cat(same))).chunk(len(same))
    return outputs


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

    def draw_uniform(self, rows: int, columns: int) -> Tensor:
        """`training.distributed.draw_uniform` from the method's generator, float32 [rows, columns], on the CPU."""
        return draw_uniform(rows, columns, self.generator)

    @abstractmethod
    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        """Loss of one batch, float32 scalar.

        Args:
            views: one float32 [N, 3, s, s] for each view of `self.views`, in its order.
            progress: share of the run's steps that are done, from 0 to 1.
        """

    def forward(self, views: list[Tensor], progress: float) -> Tensor:
        """`loss`, under the name by which data-parallel wrappers call a module."""
        return self.loss(views, progress)

    def after_backward(self, progress: float) -> None:
        """Called between the backward pass and the optimiser step, for gradients that must not be applied.

        `progress` is that of the step's loss.
        """

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step, for what gradients do not move (an averaged teacher, say)."""
