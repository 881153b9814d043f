"""What of NumPy's file format is taken, and that nothing else costs more than a header."""

from __future__ import annotations

import contextlib
import io
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_pair import random_frames

from serving.errors import BodyTooLargeError, RequestError
from serving.http.npy import MAX_HEADER_BYTES, parse_header, to_frame

SIDE = 8


def npy(array: Any, version: tuple[int, int] | None = None, **options: Any) -> bytes:
    data = io.BytesIO()
    if version:
        np.lib.format.write_array(data, array, version)
    else:
        np.save(data, array, **options)
    return data.getvalue()


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


FRAMES = random_frames(3, SIDE)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("frames", [FRAMES, FRAMES[:1], FRAMES[1]])
def test_reads_what_numpy_writes(frames: np.ndarray, version: tuple[int, int]) -> None:
    data = npy(frames, version)
    parsed = parse_header(data, side=SIDE, max_frames=3)
    assert parsed is not None
    assert parsed.size == len(data)
    got = [to_frame(frame, SIDE) for frame in parsed.frames(bytearray(data))]
    assert np.array_equal(got, frames.reshape(-1, SIDE, SIDE, 3))


def test_waits_for_the_whole_header() -> None:
    data = npy(FRAMES)
    assert [length for length in range(128) if parse_header(data[:length], side=SIDE, max_frames=3)] == []
    assert parse_header(data[:128], side=SIDE, max_frames=3) is not None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xd8\xff", "no .npy file"),
        (b"PK\x03\x04", "no .npy file"),
        (pickle.dumps(FRAMES), "no .npy file"),
        (npy(np.array([{}], object), allow_pickle=True), "object"),
        (npy(FRAMES.astype(np.float32)), "float32"),
        (npy(FRAMES.astype(np.int8)), "int8"),
        (npy(np.asfortranarray(FRAMES)), "Fortran"),
        (npy(FRAMES[:0]), "shape"),
        (npy(FRAMES[:, 1:]), "shape"),
        (npy(FRAMES[..., :2]), "shape"),
        (npy(FRAMES[None]), "shape"),
        (npy(np.uint8(1)), "shape"),
        (b"\x93NUMPY\x09\x00" + npy(FRAMES)[8:], "version 9.0"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(20), "4294967295 bytes"),
        (with_header(b"(" * MAX_HEADER_BYTES), "malformed"),
        (with_header(b"-" * (MAX_HEADER_BYTES - 1) + b"1"), "malformed"),
        (with_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8, 3)}\n"), "shape"),
        (with_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (9**999, 8)}\n"), "malformed"),
        (with_header(b"__import__('os').system('id')\n"), "malformed"),
    ],
)
def test_refuses_everything_else(data: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse_header(data, side=SIDE, max_frames=3)


def test_refuses_more_frames_than_allowed_before_they_come() -> None:
    header = with_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 8, 8, 3)}\n" % 10**12)
    with pytest.raises(BodyTooLargeError, match="more than the 3 frames"):
        parse_header(header, side=SIDE, max_frames=3)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_the_bytes_it_is_frames_or_a_request_error(data: st.DataObject) -> None:
    file = bytearray(npy(FRAMES))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    parsed = None
    with contextlib.suppress(RequestError):
        parsed = parse_header(bytes(file), side=SIDE, max_frames=3)
    assert parsed is None or 1 <= parsed.n <= 3
