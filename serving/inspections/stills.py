"""Whether two frames show the same: the camera stands still, and so does what it looks at.

Frames are compared by the means of `_ACROSS` x `_ACROSS` cells, so that noise and single digits of a clock drop out,
and every cell has to agree: when the camera head turns, or anything moves into the picture, some cell does not.

Shape legend: S side of the square frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.frames import Frame

SAME_WITHIN = 4.0
"""Grey levels, of 255, that a cell may differ by.

Low, since a defect that is missed costs more than a frame that is scored: `tests/benchmarks/sampled_frames.py` counts
what it saves, and whether the camera had moved on any of that.
"""

_ACROSS = 14


def shows_the_same(one: Frame, other: Frame) -> bool:
    """Whether two frames, uint8 [S, S, 3], differ by no more than noise."""
    return bool(np.abs(_cells(one) - _cells(other)).max() <= SAME_WITHIN)


def _cells(frame: Frame) -> NDArray[np.float32]:
    side = max(1, frame.shape[0] // _ACROSS)
    across = frame.shape[0] // side
    whole = frame[: across * side, : across * side].reshape(across, side, across, side, 3)
    return np.asarray(whole.mean(axis=(1, 3), dtype=np.float32), np.float32)
