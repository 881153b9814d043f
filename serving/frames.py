"""Image bytes to RGB frames: the only place of the project that decodes and resizes.

What comes out, whatever went in:

* RGB uint8, upright (EXIF orientation applied), squashed to a square with antialiased bilinear filtering. The
  whole picture is kept: sewer frames are 4:3 and cropping would lose pipe wall.
* JPEGs are decoded at the smallest of 1, 1/2, 1/4, 1/8 of their size that is not below the target (libjpeg's
  scaled DCT), then resized; that is 1.7 times as fast as decoding them whole.
* Grey becomes three equal channels; CMYK is converted without a colour profile (JPEGs with Adobe's inverted
  polarity, as Pillow assumes); embedded profiles are ignored; 16-bit grey is divided by 257, so that the
  whole range is kept instead of being clipped at 255.
* Transparency is composited on black. Of animations and multi-page files the first picture counts.

Bytes decide the format, not the name or the declared content type. Sizes are checked before pixels are
decoded. Shape legend: H W frame height and width, S side of the square.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from serving.errors import FrameError, FrameTooLargeError, NotAnImageError, TruncatedFrameError

Frame = NDArray[np.uint8]

# Sizes are checked here against `DecodeLimits`, and damaged metadata beside a sound picture does not matter; what
# Pillow warns about either would only fill the log of whoever is sent such files.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.\w+ImagePlugin")

# The plugin classes are called directly, not through Image.open: that one guesses among every format Pillow
# knows and warns about large sizes on the way.
_OPENERS: dict[str, Callable[[IO[bytes]], ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
}

FORMATS = tuple(_OPENERS)
"""The accepted image formats."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
"""File name endings (lower case) under which folders are searched for frames."""

_SIGNATURES = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("BMP", b"BM"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("TIFF", b"II+\0"),
    ("TIFF", b"MM\0+"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
)

# What people send instead of frames: (offset, bytes, what it is).
_FOREIGN = (
    (0, b"%PDF", "a PDF document; extract its pictures first"),
    (0, b"PK\x03\x04", "a zip archive; unpack it and send its pictures"),
    (4, b"ftypheic", "an HEIC picture; convert it to JPEG"),
    (4, b"ftypavif", "an AVIF picture; convert it to JPEG"),
    (4, b"ftyp", "an MP4 video; score it with `pipeprobe videos`"),
    (8, b"AVI ", "an AVI video; score it with `pipeprobe videos`"),
    (0, b"\x00\x00\x01\xba", "an MPEG video; score it with `pipeprobe videos`"),
    (0, b"\x1aE\xdf\xa3", "a Matroska video; score it with `pipeprobe videos`"),
    (0, b"<", "a web page or XML"),
    (0, b"{", "JSON"),
)

_MIRRORS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112
_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 322, 323
# A progressive JPEG comes in some ten scans of the whole picture. Each costs as much as decoding it once, so a file of
# many would keep a thread for hours.
_START_OF_SCAN = b"\xff\xda"
_MAX_SCANS = 100


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """The largest picture that is decoded: encoded size in bytes, and width times height in pixels."""

    max_bytes: int = 32 * 2**20
    max_pixels: int = 64_000_000

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.max_pixels < 1:
            raise ValueError(f"decode limits must be positive, got {self.max_bytes} bytes, {self.max_pixels} pixels")


DEFAULT_LIMITS = DecodeLimits()


def decode_bytes(data: bytes, size: int, limits: DecodeLimits = DEFAULT_LIMITS) -> Frame:
    """Decode one image and squash it to a square.

    Returns uint8 [size, size, 3], C-contiguous and writable. Raises `NotAnImageError`, `TruncatedFrameError`,
    `FrameTooLargeError` or plain `FrameError`, each naming what is wrong; nothing else, whatever the bytes.
    """
    _check_side(size)
    return _decode(data, size, limits)


def decode_full(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> Frame:
    """Decode one image at its own size, upright: uint8 [H, W, 3]. Errors as in `decode_bytes`."""
    return _decode(data, None, limits)


def decode_path(path: Path, size: int, limits: DecodeLimits = DEFAULT_LIMITS) -> Frame:
    """`decode_bytes` for a file; every error names the file. Raises `FrameError` if it cannot be read."""
    try:
        return decode_bytes(read_image_bytes(path, limits), size, limits)
    except FrameError as error:
        raise type(error)(f"{path} {error}") from error


def read_image_bytes(path: Path, limits: DecodeLimits = DEFAULT_LIMITS) -> bytes:
    """Content of an image file, refused unread if above the limit; `FrameError` if unreadable."""
    try:
        n_bytes = path.stat().st_size
        if n_bytes > limits.max_bytes:
            raise _too_many_bytes(n_bytes, limits)
        return path.read_bytes()
    except OSError as error:
        raise FrameError(f"cannot be read: {error.strerror or error}") from error


def resize_frame(frame: Frame, size: int) -> Frame:
    """Squash a frame, uint8 [H, W, 3], to a square, uint8 [size, size, 3]; antialiased bilinear.

    Raises `TypeError` or `ValueError` if the frame is anything else.
    """
    _check_side(size)
    if frame.dtype != np.uint8:
        raise TypeError(f"a frame must be uint8, got {frame.dtype}")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise ValueError(f"a frame must be [H, W, 3] and not empty, got shape {frame.shape}")
    return np.array(_squash(Image.fromarray(np.ascontiguousarray(frame)), size))


def _check_side(size: int) -> None:
    if size < 1:
        raise ValueError(f"the side of the square must be positive, got {size}")


def _decode(data: bytes, size: int | None, limits: DecodeLimits) -> Frame:
    if not data:
        raise FrameError("is empty: 0 bytes")
    if len(data) > limits.max_bytes:
        raise _too_many_bytes(len(data), limits)
    name = _recognise(data)
    _check_header(name, data, limits)
    # Pillow's decoders answer damaged files with whatever their parsing trips over (OSError, SyntaxError,
    # ValueError, struct.error, IndexError, ...), so every exception but running out of memory is the sender's
    # damaged file.
    try:
        image = _OPENERS[name](BytesIO(data))
        _check_size(name, image.size, limits)
        _check_tiles(image, limits)
        if size is not None:
            image.draft(None, (size, size))
        image.load()
        upright = _orient(_squash(_to_rgb(image), size), _orientation(image))
        return np.array(upright)
    except (FrameError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise TruncatedFrameError(f"is a {name} file that is cut short or damaged ({reason})") from error


def _too_many_bytes(n_bytes: int, limits: DecodeLimits) -> FrameTooLargeError:
    mib = 2**20
    return FrameTooLargeError(f"has {n_bytes / mib:.1f} MiB, more than the {limits.max_bytes / mib:.1f} MiB allowed")


def _recognise(data: bytes) -> str:
    """Name of the accepted format that the first bytes announce."""
    for name, signature in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    accepted = f"accepted: {', '.join(FORMATS)}"
    for offset, signature, what in _FOREIGN:
        if data.startswith(signature, offset):
            raise NotAnImageError(f"is not an accepted image but looks like {what} ({accepted})")
    raise NotAnImageError(f"is not an image: it begins with {data[:8]!r} ({accepted})")


def _check_header(name: str, data: bytes, limits: DecodeLimits) -> None:
    """Check what opening or decoding would only find out at the cost that it is to be spared: sizes, and scans."""
    if name == "PNG" and len(data) >= 24:
        _check_size(name, struct.unpack_from(">II", data, 16), limits)
    elif name == "GIF" and len(data) >= 10:
        _check_size(name, struct.unpack_from("<HH", data, 6), limits)
    elif name == "BMP" and len(data) >= 26 and struct.unpack_from("<I", data, 14)[0] >= 40:
        width, height = struct.unpack_from("<ii", data, 18)
        _check_size(name, (width, abs(height)), limits)  # a negative height means top to bottom
    elif name == "WebP" and data[12:16] == b"VP8X" and len(data) >= 30:
        width, height = (1 + int.from_bytes(data[start : start + 3], "little") for start in (24, 27))
        _check_size(name, (width, height), limits)
    elif name == "JPEG" and (scans := data.count(_START_OF_SCAN)) > _MAX_SCANS:
        raise FrameError(f"is a JPEG file of {scans} scans, more than the {_MAX_SCANS} allowed; save it anew")


def _check_size(name: str, size: tuple[int, ...], limits: DecodeLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise FrameError(f"is a {name} file without pixels: {width} x {height}")
    if width * height > limits.max_pixels:
        raise FrameTooLargeError(
            f"has {width} x {height} = {width * height / 1e6:.1f} megapixels, "
            f"more than the {limits.max_pixels / 1e6:.1f} allowed"
        )


def _check_tiles(image: ImageFile, limits: DecodeLimits) -> None:
    """A TIFF tile may be larger than its picture, and is what gets allocated."""
    if isinstance(image, TiffImageFile) and _TIFF_TILE_WIDTH in image.tag_v2:
        tile = (int(image.tag_v2[_TIFF_TILE_WIDTH]), int(image.tag_v2.get(_TIFF_TILE_LENGTH, 1)))
        _check_size("TIFF", tile, limits)


def _to_rgb(image: ImageFile) -> Image.Image:
    """Any pixel mode to RGB at the same size; see the module's docstring for what each becomes."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _sixteen_bit_to_rgb(image)
    if image.mode in ("I", "F"):
        kind = "32-bit integer" if image.mode == "I" else "floating-point"
        raise FrameError(f"has {kind} pixels, whose range nothing declares; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        composited = Image.new("RGB", image.size)
        composited.paste(colour, mask=colour.getchannel("A"))
        return composited
    return image.convert("RGB")


def _sixteen_bit_to_rgb(image: ImageFile) -> Image.Image:
    grey = np.array(image).astype(np.uint32)
    full_scale = 65535
    if isinstance(image, TiffImageFile):
        full_scale = 2 ** int(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (16,))[0]) - 1
        if image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0:  # white is zero; Pillow leaves 16 bits as they are
            grey = full_scale - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[grey == transparent] = 0
    eight_bit = ((grey * 255 + full_scale // 2) // full_scale).astype(np.uint8)
    return Image.fromarray(eight_bit).convert("RGB")


def _squash(image: Image.Image, size: int | None) -> Image.Image:
    if size is None or image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _orientation(image: ImageFile) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 if there is none."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged metadata beside a sound picture: the picture counts, and it has no known orientation
        return 1
    return value if isinstance(value, int) else 1


def _orient(image: Image.Image, orientation: int) -> Image.Image:
    mirror = _MIRRORS.get(orientation)
    return image if mirror is None else image.transpose(mirror)
