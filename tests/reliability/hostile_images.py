"""Bodies that pass for images, and do harm if they are believed. Everything is drawn from the generator given."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image
from support.images import SAVED_AS, encode, png_declaring
from support.tiny_pair import random_frames

Draw = random.Random


@cache
def sound_images() -> tuple[bytes, ...]:
    """Small pictures of every accepted format, a few kinds each."""
    frames = random_frames(3, 64, seed=8)
    pictures = [encode(frame, name) for frame in frames for name in SAVED_AS]
    pictures += [encode(frames[0], "JPEG", progressive=True), encode(frames[0], "TIFF", compression="tiff_deflate")]
    pictures += [encode(Image.fromarray(frames[0]).convert(mode)) for mode in ("L", "P", "RGBA", "1")]
    pictures += [encode(frames[1], "WebP", lossless=True), encode(frames[1], "TIFF", compression="tiff_lzw")]
    animated = io.BytesIO()
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(animated, "GIF", save_all=True, append_images=images[1:])
    return (*pictures, animated.getvalue())


def truncated(draw: Draw) -> bytes:
    data = draw.choice(sound_images())
    return data[: draw.randrange(len(data))]


def bit_flipped(draw: Draw) -> bytes:
    data = bytearray(draw.choice(sound_images()))
    # Half of the flips go into the head, where the sizes and the tables are.
    for _ in range(draw.choice((1, 1, 2, 5, 30))):
        position = draw.randrange(min(len(data), 200)) if draw.random() < 0.5 else draw.randrange(len(data))
        data[position] ^= 1 << draw.randrange(8)
    return bytes(data)


def spliced(draw: Draw) -> bytes:
    first, second = draw.choice(sound_images()), draw.choice(sound_images())
    return first[: draw.randrange(len(first))] + second[draw.randrange(len(second)) :]


def stuffed(draw: Draw) -> bytes:
    data = draw.choice(sound_images())
    at = draw.randrange(len(data))
    run = draw.choice((b"\0", b"\xff", b"\xff\xd8", draw.randbytes(7))) * draw.choice((1, 100, 5000))
    return data[:at] + run + data[at + draw.randrange(50) :]


def signature_and_noise(draw: Draw) -> bytes:
    signature = draw.choice(
        (
            b"\xff\xd8\xff\xe0",
            b"\x89PNG\r\n\x1a\n",
            b"BM",
            b"II*\0",
            b"MM\0*",
            b"II+\0",
            b"GIF89a",
            b"RIFF\xff\xff\0\0WEBP",
        )
    )
    return signature + draw.randbytes(draw.choice((0, 1, 20, 500, 5000)))


def foreign(draw: Draw) -> bytes:
    """Not an image at all."""
    return draw.choice(
        (
            b"",
            b"hello",
            b"%PDF-1.7\n",
            b"PK\x03\x04" + draw.randbytes(100),
            b"\0\0\0\x18ftypmp42" + draw.randbytes(100),
            b"<html><script>alert(1)</script>",
            b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'aaaa'>]><svg>&a;</svg>",
            b'{"image": "' + b"A" * 1000 + b'"}',
            b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + b" " * 50 + b"\n\x80\x04.",
            b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
            draw.randbytes(draw.choice((1, 10, 1000, 60_000))),
            bytes(draw.choice((1, 1000, 100_000))),
        )
    )


def bomb(draw: Draw) -> bytes:
    """Few bytes that unpack, or only claim, to be very many."""
    return draw.choice(_BOMBS)(draw)


def _side(draw: Draw) -> int:
    return draw.choice((1, 1000, 2**14, 2**15, 2**16 - 1, 2**20, 2**31 - 1, 2**32 - 1))


def _png_of_claims(draw: Draw) -> bytes:
    return png_declaring(_side(draw), _side(draw))


@cache
def _deflated(width: int, height: int, mode: str) -> bytes:
    return encode(Image.new(mode, (width, height)), "PNG", compress_level=9)


def _png_of_zeros(draw: Draw) -> bytes:
    return _deflated(*draw.choice(((4000, 4000, "1"), (3000, 2000, "L"), (1500, 1500, "RGB"), (900, 900, "RGBA"))))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@cache
def _zeros(mebibytes: int) -> bytes:
    return zlib.compress(bytes(mebibytes * 2**20), 9)


def _png_with_a_huge_text(draw: Draw) -> bytes:
    data = encode(np.zeros((8, 8, 3), np.uint8))
    kind, head = draw.choice(((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")))
    return data[:33] + _chunk(kind, head + _zeros(draw.choice((1, 64)))) * draw.choice((1, 20)) + data[33:]


def _png_whose_pixels_do_not_end(draw: Draw) -> bytes:
    head = struct.pack(
        ">IIBBBBB", 64, 64, draw.choice((1, 2, 4, 8, 16, 0, 255)), draw.randrange(8), 0, 0, draw.randrange(3)
    )
    parts = (_chunk(b"IHDR", head), _chunk(b"IDAT", _zeros(draw.choice((1, 64)))), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _jpeg_of_claims(draw: Draw) -> bytes:
    data = bytearray(encode(random_frames(1, 32)[0], "JPEG", progressive=draw.random() < 0.5))
    start = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    struct.pack_into(">HH", data, start + 5, *(min(_side(draw), 65535) for _ in range(2)))
    return bytes(data)


def _jpeg_of_many_scans(draw: Draw) -> bytes:
    """A progressive JPEG whose refinement scans are repeated: minutes of work in a few kilobytes."""
    data = encode(Image.new("RGB", (1000, 1000)), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * draw.choice((50, 1000)) + data[-2:]


def _webp_of_claims(draw: Draw) -> bytes:
    width, height = (min(_side(draw), 2**24) - 1 for _ in range(2))
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + width.to_bytes(3, "little") + height.to_bytes(3, "little")
    if draw.random() < 0.5:
        bits = (min(width, 16383) & 0x3FFF) | (min(height, 16383) & 0x3FFF) << 14
        body = b"VP8L" + struct.pack("<I", 30) + b"\x2f" + struct.pack("<I", bits) + draw.randbytes(25)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _gif_of_claims(draw: Draw) -> bytes:
    width, height = (min(_side(draw), 65535) for _ in range(2))
    frame = b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\0\x08\xff" + draw.randbytes(255) + b"\0;"
    return b"GIF89a" + struct.pack("<HH", *draw.choice(((width, height), (8, 8)))) + b"\0\0\0" + frame


def _bmp_of_claims(draw: Draw) -> bytes:
    sides = [min(_side(draw), 2**31 - 1) * draw.choice((1, -1)) for _ in range(2)]
    bits, compression = draw.choice((1, 4, 8, 16, 24, 32, 0)), draw.choice((0, 1, 2, 3, 9))
    head = struct.pack("<IiiHHIIiiII", 40, *sides, 1, bits, compression, 0, 0, 0, draw.choice((0, 2**31)), 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head + draw.randbytes(100)


def _tiff_of_claims(draw: Draw) -> bytes:
    tags = {
        256: _side(draw),
        257: _side(draw),
        258: draw.choice((1, 8, 16, 32, 64)),
        259: draw.choice((1, 5, 7, 8, 32773, 34712, 50001)),
        262: draw.randrange(9),
        273: draw.choice((8, 200, 2**31)),
        277: draw.choice((1, 3, 4, 1000)),
        278: _side(draw),
        279: draw.choice((0, 100, 2**31)),
    }
    if draw.random() < 0.5:
        tags |= {322: _side(draw), 323: _side(draw), 324: 200, 325: 100}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    next_page = draw.choice((0, 8))  # 8: the page is its own successor
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", next_page)
    return head.ljust(200, b"\0") + draw.choice((_zeros(1), draw.randbytes(100)))


_BOMBS: tuple[Callable[[Draw], bytes], ...] = (
    _png_of_claims,
    _png_of_zeros,
    _png_with_a_huge_text,
    _png_whose_pixels_do_not_end,
    _jpeg_of_claims,
    _jpeg_of_many_scans,
    _webp_of_claims,
    _gif_of_claims,
    _bmp_of_claims,
    _tiff_of_claims,
)

IMAGE_KINDS: dict[str, Callable[[Draw], bytes]] = {
    "truncated": truncated,
    "bit-flipped": bit_flipped,
    "spliced": spliced,
    "stuffed": stuffed,
    "noise": signature_and_noise,
    "foreign": foreign,
    "bomb": bomb,
}
"""Kind of a hostile body -> what draws one."""
