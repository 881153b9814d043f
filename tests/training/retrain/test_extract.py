"""Frames on disk are those of the reader that scores, with their times, and whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.video_files import clock_error_s, clock_face, noise, truncate, write_pal

from serving.frames import decode_bytes
from serving.inspections.video import VideoReader
from training.retrain.extract import FRAMES_JSON, extract_all, folder_name, read_extracted
from training.retrain.footage import Video


def nothing() -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Video, ...]:
    folder = tmp_path_factory.mktemp("videos")
    clock = write_pal(folder / "clock.mpg", clock_face(), seconds=4, start_s=3.0)
    whole = write_pal(folder / "noise.mpg", noise(0), seconds=2)
    broken = truncate(whole, folder / "broken.mpg", share=0.001)
    paths = (clock, broken)
    return tuple(Video(name=path.name, path=path, n_bytes=path.stat().st_size, duration_s=None) for path in paths)


def test_frames_are_the_readers_at_their_times(videos: tuple[Video, ...], tmp_path: Path) -> None:
    (clock,), broken = extract_all(videos, tmp_path, every_s=0.5, size=32, done=nothing)
    assert [each.name for each in broken] == ["broken.mpg"]
    assert clock.names()[0] == "clock.mpg@0.000s"
    assert np.diff(clock.times_s).max() <= 0.55
    samples = list(VideoReader(videos[0].path, every_s=0.5, size=32))
    assert [sample.pts_s for sample in samples] == list(clock.times_s)
    for sample, file in zip(samples, clock.files, strict=True):
        stored = np.asarray(Image.open(clock.folder / file))
        np.testing.assert_array_equal(stored, sample.frame)
        assert clock_error_s(stored, sample.pts_s) < 0.1
        # What a pack will hold: stored at the size it is wanted in, so nothing is resized again.
        np.testing.assert_array_equal(decode_bytes((clock.folder / file).read_bytes(), 32), sample.frame)


def test_what_is_whole_is_kept_and_what_is_not_is_read_again(videos: tuple[Video, ...], tmp_path: Path) -> None:
    (first,), _ = extract_all(videos[:1], tmp_path, every_s=1.0, size=32, done=nothing)
    stamp = (first.folder / FRAMES_JSON).stat().st_mtime_ns
    (kept,), _ = extract_all(videos[:1], tmp_path, every_s=1.0, size=32, done=nothing)
    assert kept == first
    assert (first.folder / FRAMES_JSON).stat().st_mtime_ns == stamp
    content = (first.folder / first.files[1]).read_bytes()
    (first.folder / first.files[1]).write_bytes(content[:10])
    assert read_extracted(first.folder) is None
    (again,), _ = extract_all(videos[:1], tmp_path, every_s=1.0, size=32, done=nothing)
    assert again == first
    assert (first.folder / first.files[1]).read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [folder_name(videos[0])]
    (denser,), _ = extract_all(videos[:1], tmp_path, every_s=0.5, size=32, done=nothing)
    assert len(denser.files) > len(again.files)


def test_the_record_accounts_for_every_picture(videos: tuple[Video, ...], tmp_path: Path) -> None:
    extract_all(videos[:1], tmp_path, every_s=1.0, size=32, done=nothing)
    counts = json.loads((tmp_path / folder_name(videos[0]) / FRAMES_JSON).read_text())["counts"]
    assert counts["pictures"] == counts["decoded"] + counts["skipped"] + counts["corrupt"] == 100


def test_folders_are_readable_safe_and_different() -> None:
    def named(name: str) -> str:
        return folder_name(Video(name=name, path=Path(name), n_bytes=1, duration_s=None))

    assert named("a/run 1.mpg").startswith("run_1.mpg-")
    assert named("a/run 1.mpg") != named("b/run 1.mpg")
    assert "/" not in named("Kanäle/../x.mpg")
    assert len(named("x" * 300 + ".mpg")) < 100
