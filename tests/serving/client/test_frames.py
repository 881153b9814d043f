"""What is sent for what a caller has."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.images import encode, quadrants

from serving.client.errors import UnreadableError
from serving.client.frames import batches_of, payload_of
from serving.frames import decode_full

PICTURE = quadrants()


def test_files_and_bytes_go_as_they_are(tmp_path: Path) -> None:
    data = encode(PICTURE, "JPEG")
    path = tmp_path / "frame.jpg"
    path.write_bytes(data)
    for frame, name in ((path, "frame.jpg"), (str(path), "frame.jpg"), (data, ""), (memoryview(data), "")):
        payload = payload_of(frame)  # type: ignore[arg-type]
        assert (payload.name, payload.data) == (name, data)


@pytest.mark.parametrize("frame", [PICTURE, PICTURE[:, ::2], PICTURE[..., 0]])
def test_arrays_arrive_without_loss(frame: Any) -> None:
    decoded = decode_full(payload_of(frame).data)
    assert np.array_equal(decoded, frame if frame.ndim == 3 else np.stack([frame] * 3, -1))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16", "YCbCr", "1"])
def test_images_of_any_mode_look_as_they_do_here(mode: str) -> None:
    image = Image.fromarray(PICTURE)
    image = Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    expected = Image.fromarray(PICTURE[..., 0]) if mode == "I;16" else image
    assert np.array_equal(decode_full(payload_of(image).data), np.asarray(expected.convert("RGB")))


def test_an_image_taken_sideways_is_sent_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(PICTURE, "JPEG", exif=exif, quality=95)
    opened = Image.open(io.BytesIO(data))
    difference = decode_full(payload_of(opened).data).astype(int) - decode_full(data)
    assert np.abs(difference).max() == 0


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        Path("/nowhere/frame.jpg"),
        Path("/"),
        "two\0parts.jpg",
    ],
)
def test_says_what_is_no_frame(frame: Any) -> None:
    with pytest.raises(UnreadableError):
        payload_of(frame)


def test_a_damaged_image_is_told_before_it_is_sent() -> None:
    cut = Image.open(io.BytesIO(encode(PICTURE, "JPEG")[:-60]))
    with pytest.raises(UnreadableError, match="image cannot be read"):
        payload_of(cut)


def test_other_types_are_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="not int"):
        payload_of(7)  # type: ignore[arg-type]


def test_batches_keep_to_both_limits_and_read_late() -> None:
    read = []

    def frames() -> Any:
        for index, size in enumerate((300, 300, 300, 2000, 300)):
            read.append(index)
            yield bytes(size)
        yield Path("/nowhere")

    batches = batches_of(frames(), max_frames=2, max_bytes=1200)
    first = next(batches)
    assert read == [0, 1]
    rest = list(batches)
    assert [indices for indices, _, _ in (first, *rest)] == [[0, 1], [2], [3], [4]]
    assert list(rest[-1][2]) == [5]
    assert list(batches_of([], max_frames=2, max_bytes=1)) == []
