"""What is sent: pictures of an inspection camera's size and weight, the same ones each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.bench.frames import SIZE, TARGET_BYTES, bench_frames
from serving.errors import ConfigError
from serving.frames import decode_full


def test_frames_are_as_large_as_a_cameras() -> None:
    frames = bench_frames()
    assert len(frames) == 8
    for frame in frames:
        assert 0.75 * TARGET_BYTES < len(frame) <= TARGET_BYTES
        assert decode_full(frame).shape == (SIZE[1], SIZE[0], 3)
    assert len(set(frames)) == 8
    assert bench_frames() == frames


def test_names_the_folder_that_holds_no_frames(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        bench_frames(tmp_path)
