"""One run over several processes, each with its share of every batch.

A run started by `torchrun` has W processes of rank 0 to W - 1. Each makes the views of its share of the frames and
passes them through the network; embeddings are then gathered, and every process computes the loss of the whole
batch. With batch norm over all processes and gradients averaged, a step is that of one process with all frames.

Without a process group everything here does nothing, so methods call it always.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def world_size() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(x: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks: [N, ...] -> [W N, ...]; differentiable.

    The backward pass sums what all processes' losses ask of a row. Since each computes the same loss, that is W times
    its gradient, and averaging the parameters' gradients over the processes takes the W away.
    """
    if world_size() == 1:
        return x
    return torch.cat(all_gather(x.contiguous()))  # type: ignore[no-untyped-call] # untyped in torch
