from __future__ import annotations

import struct
import time
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from support.images import SAVED_AS, encode, png_declaring, quadrants, smooth_frame

from serving.errors import FrameError, FrameTooLargeError, NotAnImageError, TruncatedFrameError
from serving.frames import (
    FORMATS,
    DecodeLimits,
    decode_bytes,
    decode_full,
    decode_path,
    resize_frame,
)

SIZE = 64

# pytest turns warnings into errors, which would hide what happens where they are ignored, as they are in service.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.\w+ImagePlugin")


def largest_difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def exif_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_decodes_to_the_same_frame(image_format: str) -> None:
    frame = smooth_frame()
    decoded = decode_bytes(encode(frame, image_format), SIZE)
    assert decoded.shape == (SIZE, SIZE, 3)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable
    lossless = image_format in ("PNG", "BMP", "TIFF")
    mean_error = np.abs(decoded.astype(int) - resize_frame(frame, SIZE)).mean()
    assert mean_error <= (0 if lossless else 8)


def test_the_squash_is_antialiased() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    assert largest_difference(resize_frame(stripes, 32), np.full((32, 32, 3), 127)) <= 6


@pytest.mark.parametrize(("width", "scale"), [(63, 1), (64, 1), (127, 1), (128, 2), (511, 4), (512, 8), (720, 8)])
def test_jpegs_are_decoded_no_smaller_than_the_target(monkeypatch: pytest.MonkeyPatch, width: int, scale: int) -> None:
    decoded_sizes: list[tuple[int, int]] = []
    load = ImageFile.ImageFile.load

    def recording_load(self: ImageFile.ImageFile) -> Any:
        decoded_sizes.append(self.size)
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", recording_load)
    decode_bytes(encode(smooth_frame(576, width), "JPEG"), SIZE)
    assert decoded_sizes[0] == (-(-width // scale), -(-576 // scale))
    assert min(decoded_sizes[0]) >= min(SIZE, width)


def test_draft_mode_hardly_changes_the_frame() -> None:
    data = encode(smooth_frame(), "JPEG", quality=95)
    full = resize_frame(decode_full(data), SIZE)
    assert largest_difference(decode_bytes(data, SIZE), full) <= 6


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "WebP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(image_format: str, orientation: int) -> None:
    upright = quadrants(SIZE)
    undo = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }
    options = {"lossless": True} if image_format == "WebP" else {}
    stored = np.ascontiguousarray(undo[orientation])
    data = encode(stored, image_format, exif=exif_orientation(orientation), **options)
    corner = SIZE // 4
    for y, x in ((corner, corner), (corner, -corner), (-corner, corner), (-corner, -corner)):
        assert largest_difference(decode_bytes(data, SIZE)[y, x], upright[y, x]) <= 4


def test_rotation_also_holds_where_the_picture_is_not_square() -> None:
    data = encode(smooth_frame(100, 200), "JPEG", exif=exif_orientation(6))
    assert decode_full(data).shape == (200, 100, 3)


def test_damaged_exif_beside_a_sound_picture_is_no_error() -> None:
    data = encode(quadrants(SIZE), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage")
    assert decode_bytes(data, SIZE)[5, 5, 0] > 200


def test_grey_becomes_three_equal_channels() -> None:
    grey = smooth_frame()[..., 0]
    for image_format in FORMATS:
        decoded = decode_bytes(encode(grey, image_format), SIZE)
        assert largest_difference(decoded[..., 0], decoded[..., 2]) <= 2, image_format


def test_black_and_white_becomes_grey_levels() -> None:
    board = np.indices((128, 128)).sum(0) % 2 == 0
    decoded = decode_bytes(encode(Image.fromarray(board)), 32)
    assert 120 <= decoded.min() <= decoded.max() <= 135


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_polarity(image_format: str) -> None:
    # Pillow writes CMYK JPEGs as Adobe does: inverted, with an APP14 marker.
    cmyk = Image.fromarray(quadrants(SIZE)).convert("CMYK")
    data = encode(cmyk, image_format)
    assert image_format != "JPEG" or b"Adobe" in data
    assert largest_difference(decode_bytes(data, SIZE)[8, 8], np.array([250, 10, 10])) <= 12
    assert largest_difference(decode_bytes(data, SIZE)[-8, -8], np.array([200, 200, 200])) <= 6


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(image_format: str) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint16)[None] * 257, 256, 0)
    decoded = decode_bytes(encode(ramp, image_format), 256)
    np.testing.assert_array_equal(decoded[0, :, 0], np.arange(256))


def test_big_endian_and_white_is_zero_tiffs() -> None:
    levels = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)

    def tiff(photometric: int) -> bytes:
        tags = [(256, 3, 2), (257, 3, 2), (258, 3, 16), (259, 3, 1), (262, 3, photometric), (273, 4, 134)]
        tags += [(277, 3, 1), (278, 3, 2), (279, 4, 8)]
        order = "<" if photometric == 0 else ">"
        entries = b"".join(
            struct.pack(order + "HHI", tag, kind, 1)
            + (struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value))
            for tag, kind, value in tags
        )
        header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
        body = header + entries + struct.pack(order + "I", 0)
        return body.ljust(134, b"\0") + levels.astype(order + "u2").tobytes()

    np.testing.assert_array_equal(decode_full(tiff(1))[..., 0], [[0, 100], [200, 255]])
    np.testing.assert_array_equal(decode_full(tiff(0))[..., 0], [[255, 155], [55, 0]])


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_declared_range_are_refused(mode: str) -> None:
    image = Image.fromarray(smooth_frame(16, 16)[..., 0]).convert(mode)
    with pytest.raises(FrameError, match="whose range nothing declares; convert it"):
        decode_bytes(encode(image, "TIFF"), SIZE)


def test_other_colour_spaces_are_converted() -> None:
    lab = decode_bytes(encode(Image.new("LAB", (16, 16), (128, 128, 128)), "TIFF"), SIZE)
    assert 110 <= lab.min() <= lab.max() <= 130


def test_palettes_keep_their_colours() -> None:
    image = Image.fromarray(quadrants(SIZE)).quantize(8)
    for image_format in ("PNG", "GIF", "BMP"):
        decoded = decode_bytes(encode(image, image_format), SIZE)
        assert largest_difference(decoded, quadrants(SIZE)) <= 8, image_format


def transparent_pictures() -> dict[str, bytes]:
    """Left half fully transparent white, right half opaque (200, 100, 50) or as near as the mode allows."""
    rgba = np.full((16, 16, 4), 255, np.uint8)
    rgba[:, 8:] = (200, 100, 50, 255)
    rgba[:, :8, 3] = 0
    palette = Image.fromarray((np.arange(16)[None] >= 8).repeat(16, 0).astype(np.uint8)).convert("P")
    palette.putpalette([255, 255, 255, 200, 100, 50])
    rgb = rgba[..., :3].copy()
    grey16 = np.where(np.arange(16)[None].repeat(16, 0) < 8, 65535, 257 * 100).astype(np.uint16)
    return {
        "rgba": encode(rgba),
        "webp": encode(rgba, "WebP", lossless=True),
        "grey and alpha": encode(Image.fromarray(rgba).convert("LA")),
        "palette": encode(palette, transparency=0),
        "palette with alpha per entry": encode(palette, transparency=b"\x00\xff"),
        "gif": encode(palette, "GIF", transparency=0),
        "colour key": encode(rgb, transparency=(255, 255, 255)),
        "16-bit grey key": encode(grey16, transparency=65535),
    }


@pytest.mark.parametrize("kind", list(transparent_pictures()))
def test_transparency_is_composited_on_black(kind: str) -> None:
    decoded = decode_full(transparent_pictures()[kind])
    assert decoded[:, :8].max() == 0
    assert 90 <= decoded[:, 8:, 1].min() <= decoded[:, 8:, 1].max() <= 125


@pytest.mark.parametrize("image_format", ["GIF", "WebP", "PNG", "TIFF"])
def test_the_first_picture_of_an_animation_counts(image_format: str) -> None:
    first, second = (Image.new("RGB", (32, 32), colour) for colour in ((220, 20, 20), (20, 20, 220)))
    data = encode(first, image_format, save_all=True, append_images=[second])
    assert decode_bytes(data, 32)[16, 16, 0] > 200


def test_bytes_decide_the_format_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encode(quadrants(SIZE), "PNG"))
    np.testing.assert_array_equal(decode_path(path, SIZE), quadrants(SIZE))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"hello", "begins with b'hello'"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"\0\0\0\x18ftypmp42", "pipeprobe videos"),
        (b"RIFF....AVI LIST", "pipeprobe videos"),
        (b"\0\0\x01\xba", "pipeprobe videos"),
        (b"\x1aE\xdf\xa3", "pipeprobe videos"),
        (b"<html>", "web page"),
        (b"PK\x03\x04", "unpack it"),
    ],
)
def test_what_is_not_an_image_is_named(data: bytes, says: str) -> None:
    with pytest.raises(NotAnImageError, match=says) as caught:
        decode_bytes(data, SIZE)
    assert "accepted: JPEG, PNG, BMP, TIFF, WebP, GIF" in str(caught.value)


def test_nothing_is_said_to_be_empty() -> None:
    with pytest.raises(FrameError, match="0 bytes"):
        decode_bytes(b"", SIZE)


def test_formats_that_pillow_knows_and_we_do_not_are_refused() -> None:
    buffer = BytesIO()
    Image.fromarray(quadrants(SIZE)).save(buffer, "PPM")
    with pytest.raises(NotAnImageError):
        decode_bytes(buffer.getvalue(), SIZE)


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_truncated_files_are_refused(image_format: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    data = encode(noise, image_format)
    cut = data[: max(12, int(share * len(data)))]
    with pytest.raises(TruncatedFrameError, match=f"{image_format} file that is cut short or damaged"):
        decode_bytes(cut, SIZE)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def bombs() -> dict[str, bytes]:
    gif = b"GIF89a" + struct.pack("<HH", 60000, 60000) + bytes(40)
    bmp = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 50000, -50000, 1, 24, 0, 0, 0, 0, 0, 0)
    webp = b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8X" + struct.pack("<II", 10, 0)
    webp += (16382).to_bytes(3, "little") * 2 + bytes(80)
    jpeg = bytearray(encode(smooth_frame(16, 16), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", 65000, 65000)
    tiff = bytearray(encode(smooth_frame(16, 16), "TIFF"))
    for tag in (256, 257):
        at = tiff.index(struct.pack("<HH", tag, 4)) + 8
        tiff[at : at + 4] = struct.pack("<I", 50000)
    return {
        "PNG": png_declaring(50000, 50000),
        "PNG between Pillow's warning and its error": png_declaring(10000, 10000),
        "GIF": gif,
        "BMP": bmp,
        "WebP": webp,
        "JPEG": bytes(jpeg),
        "TIFF": bytes(tiff),
    }


def test_a_jpeg_of_many_scans_is_refused_undecoded() -> None:
    data = encode(smooth_frame(1000, 1000), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    repeated = data[:last] + data[last:-2] * 90 + data[-2:]
    assert decode_bytes(repeated, SIZE).shape == (SIZE, SIZE, 3)
    repeated = data[:last] + data[last:-2] * 1000 + data[-2:]
    started_s = time.thread_time()
    with pytest.raises(FrameError, match="scans"):
        decode_bytes(repeated, SIZE)
    assert time.thread_time() - started_s < 1  # decoding it takes a hundred times as long as decoding the picture


@pytest.mark.parametrize("kind", list(bombs()))
def test_decompression_bombs_are_refused_from_the_header(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def must_not_decode(self: ImageFile.ImageFile) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", must_not_decode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FrameTooLargeError, match=r"\d+ x \d+ = [\d.]+ megapixels, more than the 64.0 allowed"):
            decode_bytes(bombs()[kind], SIZE)


@pytest.mark.parametrize(
    "data", [png_declaring(0, 10), b"GIF89a" + struct.pack("<HH", 0, 5) + bytes(40)], ids=["PNG", "GIF"]
)
def test_pictures_without_pixels_are_named(data: bytes) -> None:
    with pytest.raises(FrameError, match="without pixels"):
        decode_bytes(data, SIZE)


def test_limits_count_from_the_stated_value() -> None:
    data = encode(smooth_frame(20, 30))
    assert decode_bytes(data, 8, DecodeLimits(max_bytes=len(data), max_pixels=600)).shape == (8, 8, 3)
    with pytest.raises(FrameTooLargeError, match="30 x 20"):
        decode_bytes(data, 8, DecodeLimits(max_pixels=599))
    with pytest.raises(FrameTooLargeError, match="MiB"):
        decode_bytes(data, 8, DecodeLimits(max_bytes=len(data) - 1))
    with pytest.raises(ValueError, match="positive"):
        DecodeLimits(max_pixels=0)


def test_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=r"gone\.jpg cannot be read: No such file"):
        decode_path(tmp_path / "gone.jpg", SIZE)
    with pytest.raises(FrameError, match="cannot be read: Is a directory"):
        decode_path(tmp_path, SIZE)
    large = tmp_path / "large.png"
    large.write_bytes(encode(smooth_frame(20, 30)))
    with pytest.raises(FrameTooLargeError, match=r"large\.png has"):
        decode_path(large, SIZE, DecodeLimits(max_bytes=10))


def test_resize_frame_takes_frames_only() -> None:
    with pytest.raises(TypeError, match="uint8, got float64"):
        resize_frame(np.zeros((4, 4, 3)), 8)  # type: ignore[arg-type]  # that is what is tested
    with pytest.raises(ValueError, match=r"\[H, W, 3\]"):
        resize_frame(np.zeros((4, 4), np.uint8), 8)
    with pytest.raises(ValueError, match="positive"):
        resize_frame(np.zeros((4, 4, 3), np.uint8), 0)


ENCODED = [encode(smooth_frame(24, 20), name) for name in SAVED_AS]
ENCODED += [
    encode(smooth_frame(24, 20), "TIFF", compression="tiff_lzw"),
    encode(smooth_frame(24, 20), "TIFF", compression="jpeg"),
    encode(smooth_frame(24, 20), "JPEG", progressive=True, exif=exif_orientation(6)),
    encode(Image.fromarray(smooth_frame(24, 20)).convert("CMYK"), "JPEG"),
    encode(Image.fromarray(smooth_frame(24, 20)).quantize(16), "PNG", transparency=3),
    encode(Image.fromarray(smooth_frame(24, 20)), "WebP", save_all=True, lossless=True),
]
LIMITS = DecodeLimits(max_pixels=200_000)
damaged_settings = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def decodes_or_is_refused(data: bytes) -> None:
    try:
        decoded = decode_bytes(data, 16, LIMITS)
    except FrameError:
        return
    assert decoded.shape == (16, 16, 3)


@damaged_settings
@given(data=st.binary(max_size=200), signature=st.sampled_from([b"", *(file[:12] for file in ENCODED)]))
def test_random_bytes_raise_frame_errors_only(data: bytes, signature: bytes) -> None:
    decodes_or_is_refused(signature + data)


@damaged_settings
@given(file=st.sampled_from(ENCODED), keep=st.floats(0, 1))
def test_truncations_raise_frame_errors_only(file: bytes, keep: float) -> None:
    decodes_or_is_refused(file[: int(keep * len(file))])


@damaged_settings
@given(
    file=st.sampled_from(ENCODED),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=8),
    header_only=st.booleans(),
)
def test_bit_flips_raise_frame_errors_only(file: bytes, flips: list[tuple[float, int]], header_only: bool) -> None:
    damaged = bytearray(file)
    reach = min(64, len(file)) if header_only else len(file)
    for place, bit in flips:
        damaged[int(place * reach)] ^= 1 << bit
    decodes_or_is_refused(bytes(damaged))
