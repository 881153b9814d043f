"""Several processes over one output folder: each video is scored once, and the outputs are those of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.tiny_pair import write_tiny_pair
from support.video_files import noise, red_between, write_pal
from support.written_files import contents

from serving.durable import sha256_file
from serving.file_lock import locked
from serving.inspections.video_scoring import Batch, Footage, score_or_fail
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import score_videos
from serving.pairs.pair import find_pair
from serving.scorer import Scorer

N_VIDEOS = 4
WORKER = """
import sys
from pathlib import Path
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import find_videos, score_videos
from serving.pairs.pair import find_pair
from serving.scorer import Scorer

videos, models, out = map(Path, sys.argv[1:])
score_videos(
    find_videos([videos]), out, Scorer(find_pair(models)), VideoSettings(every_s=0.1, distance="none"),
    on_start=lambda video, info: print("begun", video.stem, flush=True),
    on_done=lambda result: print(result.status, Path(result.video).stem, flush=True),
)
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Videos and pairs."""
    videos, models = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("models")
    write_tiny_pair(models)
    for number in range(N_VIDEOS):
        paint = noise(number) if number == 2 else red_between(1.0, 2.0 + 0.1 * number)
        write_pal(videos / f"run-{number}.mpg", paint, seconds=4)
    return videos, models


@pytest.fixture(scope="module")
def alone(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes."""
    out = tmp_path_factory.mktemp("alone")
    with worker(inputs, out) as process:
        process.communicate(timeout=120)
        assert process.returncode == 0
    return written(out)


@contextmanager
def worker(inputs: tuple[Path, Path], out: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [*map(str, inputs), str(out)]
    process = subprocess.Popen([sys.executable, "-c", WORKER, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def written(out: Path) -> dict[str, bytes]:
    """All deliverables; `timing.json` says how long it took."""
    return {name: data for name, data in contents(out).items() if name != "timing.json"}


def lines_of(process: subprocess.Popen[str]) -> list[str]:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return said.splitlines()


def test_two_processes_share_a_batch(inputs: tuple[Path, Path], alone: dict[str, bytes], tmp_path: Path) -> None:
    with worker(inputs, tmp_path) as one, worker(inputs, tmp_path) as other:
        said = [lines_of(process) for process in (one, other)]
    scored = [line for lines in said for line in lines if line.startswith("scored")]
    assert sorted(scored) == [f"scored run-{number}" for number in range(N_VIDEOS)], "each by one of them"
    assert all(sum(not line.startswith("begun") for line in lines) == N_VIDEOS for lines in said), "each has all"
    assert written(tmp_path) == alone


def test_what_a_killed_process_held_is_taken_over(
    inputs: tuple[Path, Path], alone: dict[str, bytes], tmp_path: Path
) -> None:
    with worker(inputs, tmp_path) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "begun run-0\n"
        os.kill(killed.pid, signal.SIGSTOP)  # it holds the first video, and stays where it is
        with worker(inputs, tmp_path) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "begun run-1\n", "the others come first"
            deadline = time.monotonic() + 60
            while not (tmp_path / "run-3" / "report.html").is_file():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert not (tmp_path / "run-0" / "findings.json").exists()
            killed.kill()
            lines = lines_of(other)
    assert "scored run-0" in lines
    assert written(tmp_path) == alone


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    with locked(path, wait=False) as first, locked(path, wait=False) as second:
        assert (first, second) == (True, False)
    with locked(path, wait=False) as again:
        assert again


def test_a_folder_that_another_video_of_the_name_was_given_meanwhile_is_left_to_it(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    videos, models = inputs
    scorer = Scorer(find_pair(models))
    (first,) = score_videos([videos / "run-0.mpg"], tmp_path, scorer, VideoSettings(distance="none"))
    before = contents(tmp_path)
    batch = Batch.of(scorer, VideoSettings(distance="none"), 60.0, lambda *_: None, lambda *_: None)
    result = score_or_fail(Footage.of(videos / "run-1.mpg"), first.folder, batch)
    assert (result.status, result.video_sha256) == ("failed", sha256_file(videos / "run-1.mpg"))
    assert "taken by another video of this name" in result.reason
    assert contents(tmp_path) == before
