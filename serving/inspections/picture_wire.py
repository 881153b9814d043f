"""Samples through a pipe: pictures as the decoder left them, plane by plane, and what goes with them.

A message is a length, a pickled head and the bytes of the planes. Both ends are the same program with the same
libraries, so planes are laid out alike.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import IO, Any

import numpy as np
from av.video.frame import VideoFrame

from serving.inspections.pictures import Picture
from serving.inspections.video import Sample

_LENGTH = struct.Struct("<I")
# What the conversion to RGB depends on, and whether it was coded alone.
_CARRIED = ("colorspace", "color_range", "color_trc", "color_primaries", "key_frame")

Head = dict[str, Any]


def write_message(pipe: IO[bytes], head: Head, planes: Sequence[memoryview] = ()) -> None:
    """Send a head, and the planes whose sizes it gives."""
    packed = pickle.dumps(head | {"sizes": [plane.nbytes for plane in planes]})
    pipe.write(_LENGTH.pack(len(packed)) + packed)
    for plane in planes:
        pipe.write(plane)
    pipe.flush()


def read_message(read: Callable[[int], bytearray]) -> tuple[Head, list[bytearray]]:
    """The next head with its planes; `read` gives exactly as many bytes as it is asked for."""
    (length,) = _LENGTH.unpack(read(_LENGTH.size))
    head = pickle.loads(read(length))
    return head, [read(size) for size in head["sizes"]]


def pack_sample(sample: Sample) -> tuple[Head, list[memoryview]]:
    picture = sample.picture
    raw = picture.raw
    if any(plane.line_size <= 0 for plane in raw.planes):  # stored upside down
        raw = raw.reformat(format="rgb24")
    plain = VideoFrame(raw.width, raw.height, raw.format.name)
    for source, target in zip(raw.planes, plain.planes, strict=True):
        n = min(source.line_size, target.line_size)
        _lines(target)[:, :n] = _lines(source)[:, :n]
    head = {
        "pts_s": sample.pts_s,
        "shape": sample.frame.shape,
        "geometry": (raw.width, raw.height, raw.format.name),
        "carried": {name: getattr(picture.raw, name) for name in _CARRIED},
        "aspect": picture.sample_aspect.as_integer_ratio(),
        "is_field": picture.is_field,
        "coded_size": picture.coded_size,
        "rotation": picture.rotation,
    }
    planes = [
        np.ascontiguousarray(sample.frame).data.cast("B"),
        *(memoryview(plane).cast("B") for plane in plain.planes),
    ]
    return head, planes


def unpack_sample(head: Head, planes: Sequence[bytearray]) -> Sample:
    raw = VideoFrame(*head["geometry"])
    for plane, content in zip(raw.planes, planes[1:], strict=True):
        plane.update(content)  # type: ignore[arg-type]  # takes any buffer
    for name, value in head["carried"].items():
        setattr(raw, name, value)
    picture = Picture(
        raw=raw,
        sample_aspect=Fraction(*head["aspect"]),
        is_field=head["is_field"],
        coded_size=head["coded_size"],
        rotation=head["rotation"],
    )
    frame = np.frombuffer(planes[0], np.uint8).reshape(head["shape"])
    return Sample(pts_s=head["pts_s"], frame=frame, picture=picture)


def _lines(plane: Any) -> Any:
    """uint8 [lines, bytes a line] in the plane's own memory; the last line of a field ends before its stride does."""
    content = np.frombuffer(memoryview(plane), np.uint8)
    return content.reshape(-1, plane.line_size)
