"""What callers have for a frame, to the bytes that are sent. Shape legend: H W frame height and width."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from serving.client.errors import UnreadableError
from serving.client.results import Failure

FrameLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A path, the bytes of an image file, a Pillow image, or RGB uint8 [H, W, 3] (grey: [H, W])."""

# Modes that PNG holds without loss; every other one becomes RGB.
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
# Multipart headers around one file.
_OVERHEAD_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class Payload:
    """An encoded frame, and the name it is known by."""

    name: str
    data: bytes


def payload_of(frame: FrameLike) -> Payload:
    """Read or encode one frame: files and bytes go as they are, pixels as PNG, which loses nothing.

    Raises `UnreadableError` for what cannot be read, and `TypeError` for what is no frame at all.
    """
    if isinstance(frame, bytes | bytearray | memoryview):
        return Payload(name="", data=bytes(frame))
    if isinstance(frame, str | os.PathLike):
        path = Path(frame)
        try:
            return Payload(name=path.name, data=path.read_bytes())
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            reason = error.strerror if isinstance(error, OSError) else error
            raise UnreadableError(f"{str(path)!r} cannot be read: {reason}") from error
    if isinstance(frame, Image.Image):
        return Payload(name="", data=_png_of(frame))
    if isinstance(frame, np.ndarray):
        return Payload(name="", data=_png_of(Image.fromarray(_checked(frame))))
    raise TypeError(f"a frame is a path, bytes, a Pillow image or a uint8 array, not {type(frame).__name__}")


def batches_of(
    frames: Iterable[FrameLike], *, max_frames: int, max_bytes: int
) -> Iterator[tuple[list[int], list[Payload], dict[int, Failure]]]:
    """Cut `frames` into requests of at most `max_frames` and `max_bytes`, reading each only when it is its turn.

    Yields the frames' indices, their payloads, and failures of frames that could not be read, by index. A frame
    that alone is larger than `max_bytes` makes a request of its own: whether it is too large is for the service
    to say.
    """
    indices: list[int] = []
    payloads: list[Payload] = []
    failures: dict[int, Failure] = {}
    n_bytes = 0
    for index, frame in enumerate(frames):
        try:
            payload = payload_of(frame)
        except UnreadableError as error:
            failures[index] = Failure(name=_name_of(frame), error=error)
        else:
            size = len(payload.data) + _OVERHEAD_BYTES
            if payloads and n_bytes + size > max_bytes:
                yield indices, payloads, failures
                indices, payloads, failures, n_bytes = [], [], {}, 0
            indices.append(index)
            payloads.append(payload)
            n_bytes += size
        if len(payloads) + len(failures) == max_frames:
            yield indices, payloads, failures
            indices, payloads, failures, n_bytes = [], [], {}, 0
    if payloads or failures:
        yield indices, payloads, failures


def _name_of(frame: FrameLike) -> str:
    return Path(frame).name if isinstance(frame, str | os.PathLike) else ""


def _checked(frame: NDArray[Any]) -> NDArray[np.uint8]:
    if frame.dtype != np.uint8:
        raise UnreadableError(f"an array must be uint8 with values 0 to 255, got {frame.dtype}")
    if not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 3)) or 0 in frame.shape:
        raise UnreadableError(f"an array must be [H, W, 3] or [H, W] and not empty, got shape {frame.shape}")
    return np.ascontiguousarray(frame)


def _png_of(image: Image.Image) -> bytes:
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in _PNG_MODES:
            upright = upright.convert("RGB")
        buffer = io.BytesIO()
        upright.save(buffer, "PNG", compress_level=1)
    except (OSError, ValueError, SyntaxError) as error:
        raise UnreadableError(f"the image cannot be read: {error}") from error
    return buffer.getvalue()
