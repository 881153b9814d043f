"""Pictures from one process to another, as the decoder left them, and what goes with them.

A message is a length and a pickled head, and where that says so the bytes of a picture. Both ends are the same program
with the same libraries, so planes are laid out alike.

Shape legend: L lines of a plane, B bytes a line.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import IO, Any

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from serving.inspections.pictures import Picture

_LENGTH = struct.Struct("<I")
# What the conversion to RGB depends on, and whether it was coded alone.
_CARRIED = ("colorspace", "color_range", "color_trc", "color_primaries", "key_frame")

Head = dict[str, Any]
Bytes = NDArray[np.uint8]


def write_message(pipe: IO[bytes], head: Head, content: Bytes | None = None) -> None:
    """Send a head, and bytes that it does not say to lie elsewhere."""
    packed = pickle.dumps(head | {"n_following": 0 if content is None else content.nbytes})
    pipe.write(_LENGTH.pack(len(packed)) + packed)
    if content is not None:
        pipe.write(content.data)
    pipe.flush()


def read_message(read: Callable[[int], bytearray]) -> tuple[Head, Bytes]:
    """The next head with the bytes that follow it; `read` gives exactly as many bytes as it is asked for."""
    (length,) = _LENGTH.unpack(read(_LENGTH.size))
    head = pickle.loads(read(length))
    return head, np.frombuffer(read(head["n_following"]), np.uint8)


def pack_picture(picture: Picture) -> tuple[Head, list[Bytes]]:
    """A head whose `layout` says how the planes are to lie, and the planes."""
    raw = picture.raw
    if any(plane.line_size <= 0 for plane in raw.planes):  # stored upside down
        raw = raw.reformat(format="rgb24")
    geometry = (raw.width, raw.height, raw.format.name)
    # The decoder pads lines more widely than a new picture does.
    layout = [_lines(plane).shape for plane in VideoFrame(*geometry).planes]
    head = {
        "geometry": geometry,
        "layout": layout,
        "carried": {name: getattr(picture.raw, name) for name in _CARRIED},
        "aspect": picture.sample_aspect.as_integer_ratio(),
        "is_field": picture.is_field,
        "coded_size": picture.coded_size,
        "rotation": picture.rotation,
    }
    return head, [_lines(plane) for plane in raw.planes]


def n_bytes_of(head: Head) -> int:
    """How much room the planes of a picture take."""
    return sum(n_lines * n_bytes for n_lines, n_bytes in head["layout"])


def lay_out(head: Head, planes: list[Bytes], room: Bytes) -> None:
    """Copy a picture's planes to the start of `room`, uint8 [at least `n_bytes_of`]."""
    for target, plane in zip(_pieces(head, room), planes, strict=True):
        n_bytes = min(target.shape[1], plane.shape[1])
        target[:, :n_bytes] = plane[:, :n_bytes]


def unpack_picture(head: Head, room: Bytes) -> Picture:
    """The picture that was laid out in `room`, in memory of its own."""
    raw = VideoFrame(*head["geometry"])
    for plane, content in zip(raw.planes, _pieces(head, room), strict=True):
        _lines(plane)[:] = content
    for name, value in head["carried"].items():
        setattr(raw, name, value)
    return Picture(
        raw=raw,
        sample_aspect=Fraction(*head["aspect"]),
        is_field=head["is_field"],
        coded_size=head["coded_size"],
        rotation=head["rotation"],
    )


def _pieces(head: Head, room: Bytes) -> list[Bytes]:
    """uint8 [L, B] of each plane, in `room`'s own memory."""
    pieces, start = [], 0
    for n_lines, n_bytes in head["layout"]:
        end = start + n_lines * n_bytes
        pieces.append(room[start:end].reshape(n_lines, n_bytes))
        start = end
    return pieces


def _lines(plane: Any) -> Bytes:
    """uint8 [L, B] in the plane's own memory; the last line of a field ends before its stride does."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
