"""The sliding window of drift: the last frames of one pair in one worker, as a ring of summed blocks.

    rows  float64 [BLOCKS, 2 + B + D]: Unix time of the block's first frame, frames, their counts in B bins, sum of
          their embeddings

A block is closed when it is full or old, and the oldest one makes room, so the window slides by a twentieth of its
length and costs the same memory whatever its length is. Where there are several workers, the rows lie in a file
that all of them map: whichever is asked for metrics adds up every worker's blocks. A reader may find a block in
the middle of a change, and be off by one batch. Shape legend: N frames, B bins, D feature dimension.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.drift import WindowSums
from serving.monitoring.drift_reference import Reference

BLOCKS = 20

_STARTED, _FRAMES, _HEAD = 0, 1, 2


class DriftWindow:
    """One worker's window; `add` may be called from several threads.

    Args:
        reference: says the bins and the feature dimension.
        max_frames: most frames in the window.
        max_age_s: most seconds since a frame was scored; infinite: no bound.
        file: keep the rows there, for other workers to read; a file of this window is continued.
    """

    def __init__(
        self, reference: Reference, *, max_frames: int, max_age_s: float = float("inf"), file: Path | None = None
    ) -> None:
        self._reference = reference
        self._block_frames = max(1, max_frames // BLOCKS)
        self._block_age_s = max_age_s / BLOCKS
        self.max_age_s = max_age_s
        shape = (BLOCKS, _HEAD + reference.n_bins + reference.feature_dim)
        self.rows = np.zeros(shape) if file is None else _map_rows(file, shape)
        self._at = int(np.argmax(self.rows[:, _STARTED]))
        self._lock = threading.Lock()

    def add(self, scores: NDArray[np.floating], embeddings: NDArray[np.floating], now: float) -> None:
        """Take in scores [N] and embeddings [N, D] of frames scored at Unix time `now`."""
        if len(scores) == 0:
            return
        counts = self._reference.bin_counts(scores)
        total = embeddings.sum(0, dtype=np.float64)
        with self._lock:
            row = self._open_block(now)
            row[_HEAD : _HEAD + len(counts)] += counts
            row[_HEAD + len(counts) :] += total
            row[_FRAMES] += len(scores)

    def _open_block(self, now: float) -> NDArray[np.float64]:
        row: NDArray[np.float64] = self.rows[self._at]
        if row[_FRAMES] >= self._block_frames or (row[_FRAMES] and now - row[_STARTED] >= self._block_age_s):
            self._at = (self._at + 1) % BLOCKS
            row = self.rows[self._at]
            row[:] = 0
        if row[_FRAMES] == 0:
            row[_STARTED] = now
        return row


def add_up(reference: Reference, rows: Iterable[NDArray[np.float64]], *, max_age_s: float, now: float) -> WindowSums:
    """All blocks of one or several windows that began no longer than `max_age_s` ago."""
    total = np.zeros(_HEAD + reference.n_bins + reference.feature_dim)
    for blocks in rows:
        total += blocks[now - blocks[:, _STARTED] <= max_age_s].sum(0)
    bins = _HEAD + reference.n_bins
    return WindowSums(n_frames=round(total[_FRAMES]), counts=total[_HEAD:bins], embedding_sum=total[bins:])


def read_rows(file: Path, reference: Reference) -> NDArray[np.float64]:
    """Another worker's rows; none if the file has gone or is of another shape, as one being made is."""
    width = _HEAD + reference.n_bins + reference.feature_dim
    try:
        values = np.fromfile(file, np.float64)
    except OSError:
        values = np.empty(0)
    return values.reshape(BLOCKS, width) if values.size == BLOCKS * width else np.empty((0, width))


def _map_rows(file: Path, shape: tuple[int, int]) -> NDArray[np.float64]:
    n_bytes = shape[0] * shape[1] * np.dtype(np.float64).itemsize
    same = file.is_file() and file.stat().st_size == n_bytes
    return np.memmap(file, np.float64, mode="r+" if same else "w+", shape=shape)
