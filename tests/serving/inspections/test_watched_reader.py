"""A decoder that is really killed or stopped costs a stretch, which is reported, and nothing else."""

from __future__ import annotations

import fcntl
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from support.video_files import noise, write_h264, write_pal

from serving.cli import cli
from serving.errors import VideoError
from serving.inspections.picture_wire import lay_out, n_bytes_of, pack_picture, unpack_picture
from serving.inspections.video import VideoReader
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import score_videos
from serving.inspections.watched_reader import WatchedReader
from serving.scorer import Scorer

LENGTH_S = 200.0


@pytest.fixture(scope="module")
def pal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pal(tmp_path_factory.mktemp("pal") / "pal.mpg", noise(0), seconds=LENGTH_S)


def the_child() -> psutil.Process:
    (child,) = psutil.Process().children()
    return child


@contextmanager
def blow_at_opening(blow: signal.Signals) -> Iterator[None]:
    """The next child gets the signal as soon as it runs, long before it has opened anything.

    Not as soon as it is there: whoever starts it is held up until then, for ever if it is stopped.
    """

    def runs(child: psutil.Process) -> bool:
        return "serving.inspections.decoder_child" in child.cmdline()

    def strike() -> None:
        while not (children := [each for each in psutil.Process().children() if runs(each)]):
            time.sleep(0.001)
        children[0].send_signal(blow)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.parametrize("kind", ["pal", "h264"])
def test_a_healthy_video_reads_as_without_a_child(kind: str, pal: Path, tmp_path: Path) -> None:
    path = pal if kind == "pal" else write_h264(tmp_path / "x.mp4", noise(1), seconds=12)
    plain, watched = VideoReader(path, every_s=0.5, size=32), WatchedReader(path, every_s=0.5, size=32, hang_s=60)
    for a, b in zip(plain, watched, strict=True):
        assert (a.pts_s, a.picture.is_keyframe) == (b.pts_s, b.picture.is_keyframe)
        np.testing.assert_array_equal(a.frame, b.frame)
        np.testing.assert_array_equal(a.picture.to_rgb(), b.picture.to_rgb())
        np.testing.assert_array_equal(a.picture.to_gray(), b.picture.to_gray())
        np.testing.assert_array_equal(a.picture.to_display(100), b.picture.to_display(100))
    assert plain.counts == watched.counts
    assert not psutil.Process().children()


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_a_lost_decoder_costs_a_stretch(blow: signal.Signals, pal: Path) -> None:
    reader = WatchedReader(pal, every_s=0.5, size=224, hang_s=3)
    times = []
    for n, sample in enumerate(reader):
        times.append(sample.pts_s)
        if n == 5:
            the_child().send_signal(blow)
    counts = reader.counts
    assert times == sorted(set(times))
    assert times[-1] > LENGTH_S - 1
    (stretch,) = counts.lost_stretches
    assert stretch.start_s in times
    assert stretch.end_s == times[times.index(stretch.start_s) + 1]
    assert stretch.end_s - stretch.start_s < 2
    assert counts.pictures == LENGTH_S * 25 == counts.decoded + counts.skipped + counts.corrupt + counts.lost
    assert counts.sampled == len(times) <= counts.decoded
    assert not psutil.Process().children()


def test_a_decoder_that_dies_every_time_is_given_up(pal: Path) -> None:
    reader = WatchedReader(pal, every_s=0.5, size=224, hang_s=60)
    times = []
    for sample in reader:
        times.append(sample.pts_s)
        the_child().kill()
    counts = reader.counts
    assert times[-1] < LENGTH_S - 10
    assert counts.lost_stretches[-1].start_s == times[-1]
    assert counts.lost_stretches[-1].end_s > LENGTH_S - 1
    assert counts.pictures == counts.decoded + counts.skipped + counts.corrupt + counts.lost


@pytest.mark.parametrize(
    ("blow", "why"),
    [
        (signal.SIGSTOP, "says nothing for 5 s"),
        (signal.SIGSEGV, r"crashes \(Segmentation fault\)"),
        (signal.SIGKILL, r"crashes \(Killed\)"),
    ],
)
def test_a_crash_or_a_hang_at_opening_fails_that_video_alone(
    blow: signal.Signals, why: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.inspections.watched_reader._BEGINNING_S", 5.0)
    for name in ("first.mp4", "second.mp4"):
        write_h264(tmp_path / name, noise(3), seconds=2)
    options = ["--models", str(models), "--out", str(tmp_path / "out"), "--hang-after", "5s"]
    with blow_at_opening(blow):
        result = CliRunner().invoke(cli, ["videos", str(tmp_path), *options])
    assert result.exit_code == 1
    assert re.search(rf"first\.mp4 cannot be opened: what reads it {why}; copy it again", result.stderr)
    assert "1 of 2 videos could not be scored" in result.stderr
    assert (tmp_path / "out" / "second" / "findings.json").is_file()
    assert not psutil.Process().children()


@pytest.mark.skipif(sys.platform != "linux", reason="leases on files are Linux's")
def test_a_file_that_cannot_be_opened_to_an_end_is_given_up(tmp_path: Path) -> None:
    path = write_h264(tmp_path / "x.mp4", noise(3), seconds=2)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # as which we are told that somebody waits
    held = os.open(path, os.O_RDWR)
    try:
        # Whoever opens the file now waits for us, for 45 s unless the system is set otherwise.
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        started_s = time.monotonic()
        with pytest.raises(VideoError, match=r"x\.mp4 cannot be opened: what reads it says nothing for 2 s"):
            WatchedReader(path, every_s=0.5, size=16, hang_s=2)
        assert 2 <= time.monotonic() - started_s < 40
    finally:
        os.close(held)
        signal.signal(signal.SIGIO, before)
    assert not psutil.Process().children()


def test_a_video_takes_one_process_and_one_that_is_done_takes_none(
    scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kw: Any) -> None:
            super().__init__(*args, **kw)
            started.append(self.pid)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    video = write_h264(tmp_path / "x.mp4", noise(3), seconds=2)
    for status in ("scored", "kept"):
        (result,) = score_videos([video], tmp_path / "out", scorer, VideoSettings())
        assert (result.status, len(started)) == (status, 1)


def test_a_reader_that_is_left_early_ends_its_process(pal: Path) -> None:
    with WatchedReader(pal, every_s=0.5, size=16, hang_s=60) as reader:
        assert reader.info.codec == "mpeg2video"
        assert the_child().is_running()
    assert not psutil.Process().children()
    (pal.parent / "text.mpg").write_text("no video")
    with pytest.raises(VideoError, match="is a text file"):
        WatchedReader(pal.parent / "text.mpg", every_s=0.5, size=16, hang_s=60)
    assert not psutil.Process().children()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_memory_that_pictures_come_in_goes_with_the_processes(pal: Path) -> None:
    descriptors = psutil.Process().num_fds()
    with WatchedReader(pal, every_s=0.5, size=224, hang_s=60) as reader:
        for n, _ in enumerate(reader):
            if n == 5:
                names = {each.path for each in the_child().memory_maps() if "pipeprobe" in each.path}
                the_child().kill()
    # It has no name by which it could outlive them, whoever is killed.
    assert names == {"/memfd:pipeprobe-pictures"}
    assert len(reader.counts.lost_stretches) == 1
    del reader
    gc.collect()
    assert psutil.Process().num_fds() == descriptors
    assert not any("pipeprobe" in each.path for each in psutil.Process().memory_maps())


def test_a_killed_parent_leaves_no_child(pal: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from serving.inspections.watched_reader import WatchedReader\n"
        "samples = iter(WatchedReader(Path(sys.argv[1]), every_s=0.5, size=224, hang_s=60)); next(samples)\n"
        "print('reading', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(pal)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"reading\n"
        (child,) = psutil.Process(parent.pid).children()
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_picture_survives_the_pipe_whatever_its_size(tmp_path: Path) -> None:
    path = write_h264(tmp_path / "odd.mp4", noise(2, width=208, height=120), seconds=0.2)
    for sample in VideoReader(path, every_s=0.04, size=16):
        head, planes = pack_picture(sample.picture)
        room = np.zeros(n_bytes_of(head), np.uint8)
        lay_out(head, planes, room)
        there = unpack_picture(head, room)
        room[:] = 0  # is used again
        np.testing.assert_array_equal(there.to_rgb(), sample.picture.to_rgb())
