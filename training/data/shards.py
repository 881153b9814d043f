"""Decoding images into a file of frames by shards, in several processes, any of which may be killed at any time."""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

import numpy as np

from serving.errors import DataError, FrameError
from serving.frames import decode_bytes
from training.data.image_store import ImageStore

_BUFFER_BYTES = 2**20
_SHARDS_AHEAD = 2


class CorruptImage(NamedTuple):
    """An image that cannot be decoded: its row in the table, its name, and why."""

    row: int
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Work for one worker: decode `names` into `path` from frame `first` on."""

    number: int
    first: int
    names: tuple[str, ...]
    store: ImageStore
    path: Path
    size: int


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What a worker reports of a shard; `checksum` is that of its frames, black where an image is corrupt."""

    number: int
    frames: int
    checksum: str
    corrupt: tuple[CorruptImage, ...]


def decode_shard(shard: Shard) -> ShardReport:
    """Decode and write one shard; raises `DataError` if an image cannot be read, for whatever reason."""
    digest = hashlib.sha256()
    corrupt: list[CorruptImage] = []
    blank = np.zeros((shard.size, shard.size, 3), np.uint8)
    frame_bytes = blank.nbytes
    with shard.path.open("r+b", buffering=_BUFFER_BYTES) as file:
        file.seek(shard.first * frame_bytes)
        for i, name in enumerate(shard.names, start=shard.first):
            if _stopped is not None and _stopped.is_set():
                raise InterruptedError
            try:
                frame = decode_bytes(shard.store.read(name), shard.size)
            except FrameError as error:
                corrupt.append(CorruptImage(i, name, str(error)))
                frame = blank
            digest.update(frame.data)
            file.write(frame.data)
    return ShardReport(
        number=shard.number, frames=len(shard.names), checksum=digest.hexdigest(), corrupt=tuple(corrupt)
    )


# Set in worker processes only: the parent's wish that they leave what they are doing.
_stopped: Event | None = None


def _start_worker(stopped: Event) -> None:
    # The parent answers Ctrl-C for all; and a parent that was killed must not leave workers writing.
    global _stopped
    _stopped = stopped
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def run_shards(shards: Iterator[Shard], workers: int) -> Generator[ShardReport, None, None]:
    """Decode shards in `workers` processes, in this one if there is only one; reports come as they are ready.

    Raises:
        DataError: an image cannot be read, or a worker died.
    """
    if workers <= 1:
        yield from map(decode_shard, shards)
        return
    # spawn: forking a process that has started threads, as torch and NumPy do, can deadlock the child.
    context = multiprocessing.get_context("spawn")
    stopped = context.Event()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(stopped,))
    try:
        yield from _keep_busy(pool, shards, workers * _SHARDS_AHEAD)
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process was killed, probably for want of memory: run the same command again with fewer "
            "--workers, it continues where this one stopped"
        ) from error
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _keep_busy(pool: ProcessPoolExecutor, shards: Iterator[Shard], ahead: int) -> Iterator[ShardReport]:
    """Results as they come; only a few shards are submitted ahead, so that memory does not grow with the pack."""
    waiting: set[Future[ShardReport]] = set()
    for shard in shards:
        waiting.add(pool.submit(decode_shard, shard))
        if len(waiting) >= ahead:
            ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ready)
    while waiting:
        ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in ready)


def checksum(path: Path, first: int, frames: int, size: int) -> str:
    """SHA-256 of `frames` frames of `size` px in a file of frames, from frame `first` on.

    Read, not mapped: pages of a map would count as this process's memory until the disk is done with them.
    """
    digest = hashlib.sha256()
    left = frames * size * size * 3
    with path.open("rb", buffering=0) as file:
        file.seek(first * size * size * 3)
        while left and (block := file.read(min(left, _BUFFER_BYTES))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
