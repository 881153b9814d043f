"""Encoded pictures for tests, of every kind that people send."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SAVED_AS = {"JPEG": "JPEG", "PNG": "PNG", "BMP": "BMP", "TIFF": "TIFF", "WebP": "WEBP", "GIF": "GIF"}
"""Accepted format -> Pillow's name of it."""


def encode(picture: NDArray[Any] | Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    """A picture as the bytes of a file; `options` go to Pillow."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = BytesIO()
    image.save(buffer, SAVED_AS[image_format], **options)
    return buffer.getvalue()


def smooth_frame(height: int = 576, width: int = 720) -> NDArray[np.uint8]:
    """A picture without fine detail, so that lossy formats keep it: uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    planes = (255 * x / width, 255 * y / height, 255 * (1 - x / width) * (y / height))
    return np.stack(planes, -1).astype(np.uint8)


def quadrants(size: int = 64) -> NDArray[np.uint8]:
    """Four flat colours, so that every rotation and mirroring looks different: uint8 [size, size, 3]."""
    frame = np.empty((size, size, 3), np.uint8)
    half = size // 2
    frame[:half, :half], frame[:half, half:] = (250, 10, 10), (10, 250, 10)
    frame[half:, :half], frame[half:, half:] = (10, 10, 250), (200, 200, 200)
    return frame


def png_declaring(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly any pixels: a decompression bomb without the bomb."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(64))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
