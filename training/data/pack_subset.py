"""Some frames of a pack, as a pack: nothing is copied, frames are read from the same memory map.

Shapes: N frames of the pack, n of them chosen, S pixels a side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError
from training.data.pack import Frames, Pack


class FrameRows:
    """The frames at `rows` of other frames, uint8 [n, S, S, 3], read when asked for."""

    def __init__(self, frames: Frames, rows: NDArray[np.int64]) -> None:
        self._frames, self._rows = frames, rows

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._rows), *self._frames.shape[1:])

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, places: Any, /) -> NDArray[np.uint8]:
        return self._frames[self._rows[places]]


def select_frames(pack: Pack, rows: NDArray[np.int64], *, subset: Mapping[str, Any] | None = None) -> Pack:
    """The frames of `pack` at `rows`, in that order, as a pack with a digest of its own.

    Args:
        pack: where the frames are.
        rows: int64 [n], each once.
        subset: how they were drawn, for the record; goes into the pack's index.

    Raises:
        ConfigError: no frame, one that the pack does not have, or one twice.
    """
    rows = np.asarray(rows, dtype=np.int64)
    if not len(rows) or rows.min() < 0 or rows.max() >= len(pack):
        raise ConfigError(f"{pack.path} has {len(pack)} frames: choose one at least, and only those it has")
    if len(np.unique(rows)) != len(rows):
        raise ConfigError(f"a frame of {pack.path} was chosen twice")
    digest = hashlib.sha256(pack.digest.encode() + rows.astype("<i8").tobytes()).hexdigest()
    return replace(
        pack,
        frames=FrameRows(pack.frames, rows),
        labels=np.asarray(pack.labels)[rows],
        classes=np.asarray(pack.classes)[rows],
        inspections=np.asarray(pack.inspections)[rows],
        names=tuple(pack.names[row] for row in rows.tolist()),
        digest=digest,
        index=pack.index | {"subset": dict(subset) if subset is not None else None},
    )
