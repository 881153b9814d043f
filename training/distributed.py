"""One run over several processes, each with its share of every batch.

A run started by `torchrun` has W processes of rank 0 to W - 1. Each makes the views of its share of the frames and
passes them through the network; embeddings are then gathered, and every process computes the loss of the whole
batch. With batch norm over all processes (`training.sync_norm`) and gradients averaged, a step is that of one process
with all frames.

Without a process group everything here does nothing, so methods and the loop call it always.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import Function

from serving.errors import ConfigError, DeviceError, PipeprobeError

# How Gloo says that another process is gone; there is no class of error for it.
_PEER_GONE = re.compile("closed by peer|reset by peer|Broken pipe")


class PeerLostError(PipeprobeError):
    """Another process of the run has ended."""

    slug = "peer-lost"
    title = "Another process ended"


def is_launched() -> bool:
    """Whether `torchrun` started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextmanager
def joined_processes(device: str) -> Iterator[str]:
    """Join the processes that `torchrun` started, for the time of the block; alone, this does nothing.

    Args:
        device: `cpu` or `cuda`; without `torchrun` also one of several GPUs, such as `cuda:1`.

    Yields:
        The device of this process: with `cuda`, each of a machine takes a GPU of its own.

    Raises:
        ConfigError: one GPU is named for all processes.
        DeviceError: more processes than GPUs.
        PeerLostError: another process ended before the block was done.
    """
    if not is_launched():
        yield device
        return
    own = _own_device(device)
    if own != "cpu":
        torch.cuda.set_device(own)
    # Words between processes go over the CPU in any case, so that no step waits for a GPU because of them.
    dist.init_process_group("gloo" if own == "cpu" else "cpu:gloo,cuda:nccl")
    try:
        yield own
    except BaseException as error:
        # NCCL would leave in order, after exchanges that others may never come to. The end of the process, which
        # torchrun notices, ends them.
        if own == "cpu":
            dist.destroy_process_group()
        if isinstance(error, RuntimeError) and _PEER_GONE.search(str(error)):
            raise PeerLostError("another process of the run ended early: its own message says why") from error
        raise
    dist.destroy_process_group()


def _own_device(device: str) -> str:
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return kind
    if index:
        raise ConfigError(
            f"{device} is one GPU, and torchrun started several processes: ask for cuda, of which each takes its own, "
            "and choose among GPUs with CUDA_VISIBLE_DEVICES"
        )
    local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= there:
        raise DeviceError(
            f"torchrun started more processes than the {there} CUDA devices that torch sees: "
            f"start {there} with --nproc-per-node {there}"
        )
    return f"{kind}:{local}"


def world_size() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0. Rank 0 alone writes files and prints."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def share_of_batch(batch_size: int) -> slice:
    """Which rows of a batch are this process's.

    Raises:
        ConfigError: the batch cannot be divided evenly.
    """
    processes = world_size()
    if batch_size % processes:
        raise ConfigError(
            f"a batch of {batch_size} frames cannot be divided evenly over {processes} processes: take a batch size of "
            f"{-(-batch_size // processes) * processes}, or another number of processes"
        )
    rows = batch_size // processes
    return slice(rank() * rows, (rank() + 1) * rows)


def draw_uniform(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Numbers in [0, 1) for this process's `rows` of the batch, float32 [rows, columns], on the CPU.

    All processes draw for the whole batch and take their part, so that what a frame gets does not depend on how many
    there are.
    """
    drawn = torch.rand((rows * world_size(), columns), generator=generator)
    return drawn[rank() * rows : (rank() + 1) * rows]


def gather(x: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks: [N, ...] -> [W N, ...]; differentiable.

    N is the same in all. The backward pass sums what all processes' losses ask of a row. Since each computes the same
    loss, that is W times its gradient, and averaging the parameters' gradients over the processes takes the W away.
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x.contiguous())
    return gathered


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x)
        ctx.rows = len(x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their means over the processes; parameters without one, in all processes, are passed over.

    One exchange after the backward pass, since the networks here are small; gradients all have one dtype.
    """
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    together /= world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(together[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def said_by_first(value: bool) -> bool:
    """The `value` of rank 0, for what processes must do together but clocks may judge differently."""
    if world_size() == 1:
        return value
    word = torch.tensor([value])
    dist.broadcast(word, src=0)
    return bool(word)


def require_same(**values: object) -> None:
    """Wait for all processes, and raise `ConfigError` in each unless all give equal `values`."""
    if world_size() == 1:
        return
    said: list[Any] = [None] * world_size()
    dist.all_gather_object(said, values)
    for process, others in enumerate(said):
        differing = [name for name in values if others[name] != said[0][name]]
        if differing:
            raise ConfigError(
                f"process {process} of the run has another {' and '.join(differing)} than process 0: start all with "
                "the same command, code and data"
            )
