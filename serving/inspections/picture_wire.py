"""Samples from one process to another: pictures as the decoder left them, and what goes with them.

A message is a length and a pickled head, and where that says so the bytes of a sample. Both ends are the same program
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
from serving.inspections.video import Sample

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


def pack_sample(sample: Sample) -> tuple[Head, list[Bytes]]:
    """A head whose `layout` says how the planes are to lie, and the planes: the frame's one, then the picture's."""
    picture = sample.picture
    raw = picture.raw
    if any(plane.line_size <= 0 for plane in raw.planes):  # stored upside down
        raw = raw.reformat(format="rgb24")
    geometry = (raw.width, raw.height, raw.format.name)
    frame = np.ascontiguousarray(sample.frame).reshape(1, -1)
    # The decoder pads lines more widely than a new picture does.
    layout = [frame.shape, *(_lines(plane).shape for plane in VideoFrame(*geometry).planes)]
    head = {
        "pts_s": sample.pts_s,
        "shape": sample.frame.shape,
        "geometry": geometry,
        "layout": layout,
        "carried": {name: getattr(picture.raw, name) for name in _CARRIED},
        "aspect": picture.sample_aspect.as_integer_ratio(),
        "is_field": picture.is_field,
        "coded_size": picture.coded_size,
        "rotation": picture.rotation,
    }
    return head, [frame, *map(_lines, raw.planes)]


def n_bytes_of(head: Head) -> int:
    """How much room the planes of a sample take."""
    return sum(n_lines * n_bytes for n_lines, n_bytes in head["layout"])


def lay_out(head: Head, planes: list[Bytes], room: Bytes) -> None:
    """Copy a sample's planes to the start of `room`, uint8 [at least `n_bytes_of`]."""
    for target, plane in zip(_pieces(head, room), planes, strict=True):
        n_bytes = min(target.shape[1], plane.shape[1])
        target[:, :n_bytes] = plane[:, :n_bytes]


def unpack_sample(head: Head, room: Bytes) -> Sample:
    """The sample that was laid out in `room`, in memory of its own."""
    frame, *planes = _pieces(head, room)
    raw = VideoFrame(*head["geometry"])
    for plane, content in zip(raw.planes, planes, strict=True):
        _lines(plane)[:] = content
    for name, value in head["carried"].items():
        setattr(raw, name, value)
    picture = Picture(
        raw=raw,
        sample_aspect=Fraction(*head["aspect"]),
        is_field=head["is_field"],
        coded_size=head["coded_size"],
        rotation=head["rotation"],
    )
    return Sample(pts_s=head["pts_s"], frame=frame.reshape(head["shape"]).copy(), picture=picture)


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
