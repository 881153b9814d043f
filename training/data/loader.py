"""Shuffled batches of packed frames, read ahead by a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.errors import ConfigError
from training.data.pack import Frames, Pack

_BATCHES_AHEAD = 3
_POLL_S = 0.05
# Of a device's free memory, what a resident pack may take; the rest is for the model and its activations.
_RESIDENT_SHARE = 0.6
ALL_ROWS = slice(None)

_resident: WeakKeyDictionary[Pack, dict[torch.device, Tensor]] = WeakKeyDictionary()


def epoch_order(n: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which epoch `epoch` visits `n` frames: a permutation, int64 [n], of (seed, epoch) alone."""
    return np.random.default_rng((seed, epoch)).permutation(n)


def epoch_batches(
    pack: Pack,
    *,
    batch_size: int,
    epoch: int,
    seed: int,
    device: torch.device | str = "cpu",
    indices: NDArray[np.int64] | None = None,
    drop_last: bool = True,
    share: slice = ALL_ROWS,
    resident: bool = False,
) -> Generator[Tensor, None, None]:
    """One epoch of frames, each once, in the order of `epoch_order`.

    Args:
        pack: where the frames are.
        batch_size: B.
        epoch, seed: decide the order, and nothing else does.
        device: where the batches are wanted.
        indices: frames to use, int64; all of the pack by default.
        drop_last: leave out the last batch if it is not full.
        share: rows of each batch that are read, where several processes share it (see `training.distributed`); all by
            default.
        resident: keep the whole pack on the device, copied there once, and gather batches there.

    Returns:
        A generator of uint8 [B, S, S, 3], or as many rows as `share` has. Closing it, or dropping it, ends the
        reading thread.

    Raises:
        ConfigError: there is not one batch, a batch that is not full would be shared, or the pack does not fit on the
            device.
    """
    chosen = np.arange(len(pack)) if indices is None else np.asarray(indices, dtype=np.int64)
    if batch_size < 1 or epoch < 0 or seed < 0:
        raise ConfigError(f"batch size must be positive, epoch and seed not negative: {batch_size}, {epoch}, {seed}")
    if len(chosen) < (batch_size if drop_last else 1):
        raise ConfigError(
            f"{pack.path}: {len(chosen)} frames do not fill a batch of {batch_size}: "
            "take a smaller batch or more frames"
        )
    if chosen.min() < 0 or chosen.max() >= len(pack):
        raise ConfigError(f"{pack.path} has {len(pack)} frames; the indices go from {chosen.min()} to {chosen.max()}")
    if share != ALL_ROWS and not drop_last:
        raise ConfigError("a batch that is not full cannot be shared: leave it out")
    order = chosen[epoch_order(len(chosen), seed=seed, epoch=epoch)]
    end = len(order) - len(order) % batch_size if drop_last else len(order)
    batches = [order[start : min(start + batch_size, end)][share] for start in range(0, end, batch_size)]
    if resident:
        return _gather_resident(resident_frames(pack, torch.device(device)), batches)
    return _read_ahead(pack, batches, torch.device(device))


def resident_frames(pack: Pack, device: torch.device) -> Tensor:
    """All frames of `pack` on `device`, uint8 [N, S, S, 3]; copied once and kept as long as `pack` is.

    Raises:
        ConfigError: the device has too little free memory.
    """
    kept = _resident.setdefault(pack, {})
    if device not in kept:
        n_bytes = pack.frames.nbytes
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if n_bytes > free * _RESIDENT_SHARE:
                raise ConfigError(
                    f"{pack.path} has {n_bytes / 2**30:.1f} GiB, too much to keep on {device} with "
                    f"{free / 2**30:.1f} GiB free: read it from disk, or pack fewer or smaller frames"
                )
        kept[device] = _upload(pack, device)
    return kept[device]


def _upload(pack: Pack, device: torch.device) -> Tensor:
    frames = torch.empty(pack.frames.shape, dtype=torch.uint8, device=device)
    step = 1024
    for start in range(0, len(pack), step):
        # A copy, since a tensor over a read-only map could be written to by mistake.
        frames[start : start + step] = torch.from_numpy(np.array(pack.frames[start : start + step])).to(device)
    return frames


def _gather_resident(frames: Tensor, batches: list[NDArray[np.int64]]) -> Generator[Tensor, None, None]:
    for batch in batches:
        yield frames[torch.from_numpy(batch).to(frames.device)]


def _read_ahead(pack: Pack, batches: list[NDArray[np.int64]], device: torch.device) -> Generator[Tensor, None, None]:
    ready: queue.Queue[Tensor | BaseException | None] = queue.Queue(_BATCHES_AHEAD)
    stopped = threading.Event()

    def put(item: Tensor | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=_POLL_S)
                return

    def read() -> None:
        try:
            for batch in batches:
                if stopped.is_set():
                    return
                put(_read_batch(pack.frames, batch, pinned=device.type == "cuda"))
            put(None)
        except BaseException as error:  # whatever it is, it belongs to whoever asked for the batch
            put(error)

    thread = threading.Thread(target=read, name="frames", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            # Copied on the consumer's stream, not the thread's, so that no kernel can overtake the copy.
            yield item.to(device, non_blocking=True)
    finally:
        stopped.set()
        thread.join()


def _read_batch(frames: Frames, batch: NDArray[np.int64], *, pinned: bool) -> Tensor:
    """Gather rows in the order in which they lie on disk, into the places that the batch gives them."""
    out = torch.empty((len(batch), *frames.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
    target: NDArray[Any] = out.numpy()
    for place in np.argsort(batch):
        target[place] = frames[batch[place]]
    return out
