"""Videos behind URLs: which there are, and what is said where one cannot be brought here."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from serving.errors import ConfigError, VideoError
from serving.inspections.scratch import scratch_folder
from serving.inspections.sources import Fetcher, find_sources

Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture(autouse=True)
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    for name in ("run-1.mpg", "run-1.mpg.distance.csv", "deep/run-2.MP4", "notes.txt"):
        fs.pipe_file(f"/pipes/{name}", name.encode())
    yield fs
    fs.store.clear()


def test_videos_are_found_by_their_endings_each_once() -> None:
    sources = find_sources(["memory://pipes", "memory://pipes/run-1.mpg", "memory://pipes/"])
    assert [source.given for source in sources] == ["memory://pipes/deep/run-2.MP4", "memory://pipes/run-1.mpg"]
    assert [(source.stem, source.parts) for source in sources] == [
        ("run-2", ("pipes", "deep", "run-2.MP4")),
        ("run-1", ("pipes", "run-1.mpg")),
    ]
    state = sources[1].recorded_state
    assert state is not None
    assert {name: entry["size"] for name, entry in state.items()} == {"run-1.mpg": 9, "run-1.mpg.distance.csv": 22}
    assert [source.name for source in find_sources(["memory://pipes"], recursive=False)] == ["run-1.mpg"]


def test_a_video_is_here_with_its_distances_while_it_is_needed(tmp_path: Path) -> None:
    (source,) = find_sources(["memory://pipes/run-1.mpg"])
    with Fetcher(tmp_path) as fetcher:
        with fetcher.video(source) as footage:
            assert sorted(path.name for path in footage.path.parent.iterdir()) == [
                "run-1.mpg",
                "run-1.mpg.distance.csv",
            ]
            assert footage.path.read_bytes() == b"run-1.mpg"
            assert (footage.given, footage.address) == ("memory://pipes/run-1.mpg", "memory://pipes/run-1.mpg")
        assert not list(tmp_path.iterdir())
        fetcher.fetch_ahead(source)
    assert not list(tmp_path.iterdir()), "nor does one stay that was fetched for nothing"


def test_what_cannot_be_brought_is_said(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = find_sources(["memory://pipes/deep"])
    with Fetcher(tmp_path) as fetcher:
        memory.pipe_file("/pipes/deep/run-2.MP4", b"another")
        with pytest.raises(VideoError, match=r"run-2.MP4 has changed since this command began"), fetcher.video(source):
            pass
        memory.rm_file("/pipes/deep/run-2.MP4")
        with pytest.raises(VideoError, match=r"run-2.MP4 is not there any more"), fetcher.video(source):
            pass
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 95, 5))
        with (
            pytest.raises(
                VideoError, match=r"has 14 bytes and .* room for 5: name a folder on a larger disk with --scr"
            ),
            fetcher.video(source),
        ):
            pass
        assert not list(tmp_path.iterdir())


def test_a_scratch_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="name another with --scratch"), scratch_folder(tmp_path / "file"):
        pass


def test_a_scratch_folder_is_removed_and_so_are_those_of_killed_runs(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as mine:
        abandoned = mine.with_name("run-abandoned")
        abandoned.mkdir()
        (abandoned / "video.mpg").touch()
        with scratch_folder(tmp_path) as other:
            assert sorted(path for path in mine.parent.iterdir() if path.is_dir()) == sorted([mine, other])
        assert mine.is_dir()
    assert not mine.exists()
