"""Batches of a pack, shuffled from (seed, epoch) alone and read one ahead of their use."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.pack import Pack

AHEAD = 2


def epoch_order(count: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """int64 [count]: the order of an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def epoch_batches(
    pack: Pack,
    *,
    batch_size: int,
    epoch: int,
    seed: int,
    device: str | torch.device = "cpu",
    indices: NDArray[np.int64] | None = None,
    drop_last: bool = True,
) -> Iterator[Tensor]:
    """One epoch of uint8 [B, S, S, 3] batches on `device`.

    Args:
        indices: the rows to use, all of them if None.
        drop_last: leave out the last batch if it is not full.
    """
    rows = np.arange(len(pack)) if indices is None else indices
    order = rows[epoch_order(len(rows), seed=seed, epoch=epoch)]
    end = len(order) // batch_size * batch_size if drop_last else len(order)
    chunks = [order[start : start + batch_size] for start in range(0, end, batch_size)]
    ready: queue.Queue[Tensor | BaseException | None] = queue.Queue(maxsize=AHEAD)
    stopped = threading.Event()

    def put(item: Tensor | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for chunk in chunks:
                if stopped.is_set():
                    return
                # Ascending rows read the memory map forwards; the batch is a set, its order does not matter.
                put(torch.from_numpy(pack.frames[np.sort(chunk)]))
            put(None)
        except BaseException as error:  # handed on to the thread that consumes
            put(error)

    thread = threading.Thread(target=read, name="pack-reader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item.to(device, non_blocking=True)
    finally:
        stopped.set()
        thread.join()
