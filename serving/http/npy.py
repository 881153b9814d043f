"""NumPy's .npy format as far as callers may use it: frames that they decoded and resized themselves.

Only the header is parsed, by NumPy, from a bounded number of bytes; what it may declare is uint8 in C order, so
there is no pickle to load and the file's exact size is known before the data are there.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from serving.errors import BodyTooLargeError, RequestError

MAX_HEADER_BYTES = 1024
"""Longest header that is parsed; `numpy.save` writes 128 bytes."""

_PREFIX_BYTES = {(1, 0): 10, (2, 0): 12}  # magic, version, header length
_WANTED = "numpy.save() an array of uint8 in C order"


@dataclass(frozen=True, kw_only=True)
class NpyFrames:
    """What a header declares: `n` frames of uint8 [side, side, 3], whose data begin at byte `start`."""

    n: int
    side: int
    start: int

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.start + self.n * self.frame_bytes

    @property
    def frame_bytes(self) -> int:
        return self.side * self.side * 3

    def frames(self, file: bytearray) -> list[bytes]:
        """The bytes of each frame of the whole file."""
        view = memoryview(file)[self.start :]
        size = self.frame_bytes
        return [bytes(view[start : start + size]) for start in range(0, self.n * size, size)]


def parse_header(head: bytes, *, side: int, max_frames: int) -> NpyFrames | None:
    """The header at the beginning of a file, or None if `head` does not hold all of it yet.

    Raises `RequestError` if it is none or declares anything but frames of this side, and `BodyTooLargeError` if
    it declares more than `max_frames`.
    """
    start = _data_start(head)
    if start is None or len(head) < start:
        return None
    shape = _declared_shape(head[:start])
    frames = shape if len(shape) == 4 else (1, *shape)
    if len(shape) not in (3, 4) or frames[1:] != (side, side, 3) or frames[0] < 1:
        raise RequestError(
            f"the array has the shape {_shown(shape)}; this pair takes [{side}, {side}, 3] or [N, {side}, {side}, 3]"
        )
    if frames[0] > max_frames:
        raise BodyTooLargeError(f"the array holds more than the {max_frames} frames allowed in one request")
    return NpyFrames(n=frames[0], side=side, start=start)


def to_frame(data: bytes, side: int) -> NDArray[np.uint8]:
    """The bytes of one frame as uint8 [side, side, 3]; nothing is copied."""
    return np.frombuffer(data, np.uint8).reshape(side, side, 3)


def _data_start(head: bytes) -> int | None:
    """Where the data begin; None if too little is there to say."""
    magic = npy_format.MAGIC_PREFIX
    if head[: len(magic)] != magic[: len(head)]:
        raise RequestError(f"the body is no .npy file; {_WANTED}")
    if len(head) < max(_PREFIX_BYTES.values()):
        return None
    prefix = _PREFIX_BYTES.get((head[6], head[7]))
    if prefix is None:
        raise RequestError(f"the .npy file is of version {head[6]}.{head[7]}; {_WANTED}, which makes version 1.0")
    length = int.from_bytes(head[8:prefix], "little")
    if length > MAX_HEADER_BYTES:
        raise RequestError(f"the .npy header has {length} bytes, more than the {MAX_HEADER_BYTES} allowed")
    return prefix + length


def _declared_shape(head: bytes) -> tuple[int, ...]:
    read = npy_format.read_array_header_1_0 if head[6] == 1 else npy_format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers of other writers, which are all the same to us
            shape, fortran_order, dtype = read(io.BytesIO(head[8:]), max_header_size=MAX_HEADER_BYTES)
    except Exception as error:  # whatever a made-up header trips over: its parser is Python's own
        raise RequestError(f"the .npy header is malformed; {_WANTED}") from error
    if dtype != np.uint8 or (fortran_order and math.prod(shape) > 1):
        order = "Fortran" if fortran_order else "C"
        raise RequestError(f"the array is {str(dtype)[:50]} in {order} order; {_WANTED}")
    return tuple(shape)


def _shown(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(str(size)[:20] for size in shape[:6]) + (", ...]" if len(shape) > 6 else "]")
