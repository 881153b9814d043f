"""Whatever lies in a folder of inspections: unusual videos are read like any other, and the rest is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.hostile_files import NO_VIDEOS, UNUSUAL, write_at, write_hours, write_standing_clock
from support.process_watch import MIB
from support.video_files import clock_error_s, damage, noise, truncate, write_h264, write_video
from support.written_files import contents

from serving.inspections.video import VideoReader
from serving.inspections.video_decoding import Ticket, plan
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import find_videos, score_videos
from serving.inspections.watched_reader import WatchedReader
from serving.scorer import Scorer

EVERY_S = 0.1
# Width and height of the picture as people see it, where it is not 160 x 128.
DISPLAYED = {
    "4K": (1926, 1082),  # what is held of it
    "10 bit, full HD": (1920, 1080),
    "odd sides, H.264": (353, 287),
    "odd sides, MPEG-2": (353, 287),
    "odd sides, Motion JPEG": (353, 287),
    "very small": (3, 2),
    "turned by 90": (128, 160),
    "turned by 270": (128, 160),
    "wide pixels": (228, 128),
    "two sizes": (96, 96),
}
# Another reading of the clock than the time: the second part of this one begins anew.
TURN_S = {"two sizes": 2.0}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_an_unusual_video_is_read_like_any_other(kind: str, tmp_path: Path) -> None:
    path = UNUSUAL[kind](tmp_path)
    plain = VideoReader(path, every_s=EVERY_S, size=32)
    width, height = DISPLAYED.get(kind, (160, 128))
    with WatchedReader(path, every_s=EVERY_S, size=32, hang_s=60) as watched:
        for n, (here, there) in enumerate(zip(plain, watched, strict=True)):
            time_s = there.pts_s
            assert clock_error_s(there.frame, time_s % TURN_S.get(kind, np.inf)) < 0.06
            shown = there.picture.to_display(max(width, height))
            if n == 0:
                assert (there.picture.upright_size, there.frame.shape) == (here.picture.upright_size, (32, 32, 3))
                assert abs(shown.shape[1] - width) <= 2
                assert abs(shown.shape[0] - height) <= 2
            assert (here.pts_s, here.picture.is_keyframe) == (time_s, there.picture.is_keyframe)
            np.testing.assert_array_equal(here.frame, there.frame)
            np.testing.assert_array_equal(here.picture.to_rgb(), there.picture.to_rgb())
            np.testing.assert_array_equal(here.picture.to_gray(), there.picture.to_gray())
            np.testing.assert_array_equal(here.picture.to_display(100), there.picture.to_display(100))
        counts = watched.counts
    assert counts == plain.counts
    assert counts.pictures == counts.decoded + counts.skipped
    assert (counts.corrupt, counts.lost) == (0, 0)
    assert counts.last_picture_s - time_s <= EVERY_S


@pytest.mark.parametrize(("rotation", "corner"), [(90, "bottom left"), (180, "bottom right"), (270, "top right")])
def test_a_turned_recording_is_turned_upright_behind_the_pipe(rotation: int, corner: str, tmp_path: Path) -> None:
    picture = np.full((96, 160, 3), 30, np.uint8)
    picture[:32, :32] = 220
    path = write_video(tmp_path / "x.mp4", lambda time_s: picture, seconds=0.2, codec="libx264", rotation=rotation)
    with WatchedReader(path, every_s=0.04, size=64, hang_s=60) as reader:
        upright = next(iter(reader)).picture.to_display(160)
    rows = {"top": upright[:24], "bottom": upright[-24:]}
    corners = {
        f"{row} {side}": half
        for row, line in rows.items()
        for side, half in (("left", line[:, :24]), ("right", line[:, -24:]))
    }
    assert {name: bool(part.mean() > 120) for name, part in corners.items()} == {
        each: each == corner for each in corners
    }


def test_only_what_is_no_video_fails_in_a_folder_of_everything(scorer: Scorer, tmp_path: Path) -> None:
    folder, expected = tmp_path / "footage", {}
    folder.mkdir()
    for writer, why in NO_VIDEOS.values():
        expected[writer(folder).name] = why
    write_h264(folder / "sound.mp4", noise(1), seconds=4)
    truncate(
        write_video(tmp_path / "whole.mkv", noise(2), seconds=4, codec="libx264", gop=25), folder / "cut.mkv", share=0.5
    )
    damage(write_h264(tmp_path / "whole.mp4", noise(3), seconds=4, gop=12), folder / "hurt.mp4", start=0.4, end=0.5)
    before = {name: data for name, data in contents(folder).items() if name != "pipe.mpg"}
    # The folder is searched for files; the pipe is named.
    videos = [*find_videos([folder]), folder / "pipe.mpg"]
    results = {Path(each.video).name: each for each in score_videos(videos, tmp_path / "out", scorer, VideoSettings())}
    for name, why in expected.items():
        assert results[name].status == "failed"
        assert f"{name} {why}" in results[name].reason
    assert {name for name, result in results.items() if result.status == "failed"} == set(expected)
    assert (results["sound.mp4"].complete, results["cut.mkv"].complete) == (True, False)
    assert results["hurt.mp4"].frames_corrupt > 0
    assert {name: data for name, data in contents(folder).items() if name != "pipe.mpg"} == before


def test_ten_hours_take_no_more_memory_than_one(tmp_path: Path) -> None:
    most_of_child, here = {}, {}
    for hours in (1, 10):
        path = write_hours(tmp_path / f"{hours}.mp4", hours)
        most = 0
        with WatchedReader(path, every_s=10, size=32, hang_s=60) as reader:
            (child,) = psutil.Process().children()
            for sample in reader:
                if sample.pts_s % 60 == 0:
                    most = max(most, child.memory_info().rss)
        counts = reader.counts
        assert counts.pictures == 3600 * hours == counts.decoded + counts.skipped
        assert counts.last_picture_s == 3600 * hours - 1
        assert counts.longest_gap_s is not None
        assert counts.longest_gap_s <= 10
        assert reader.info.duration_s == 3600 * hours
        most_of_child[hours], here[hours] = most, psutil.Process().memory_info().rss
    assert most_of_child[10] < 1.1 * most_of_child[1]
    assert here[10] - here[1] < 8 * MIB


def test_pictures_that_all_bear_one_time_are_told_apart_by_the_rate(tmp_path: Path) -> None:
    path = write_standing_clock(tmp_path / "standing.mkv", 1000)
    reader = VideoReader(path, every_s=0.5, size=16)
    samples = list(reader)
    assert reader.counts.last_picture_s == pytest.approx(40, abs=0.1)
    assert max(b.pts_s - a.pts_s for a, b in pairwise(samples)) <= 0.5 + 1e-3
    # Its grey drifts a little from one keyframe to the next.
    assert all(clock_error_s(sample.frame, sample.pts_s) < 0.1 for sample in samples)


def test_what_the_decoder_was_told_to_skip_is_not_called_corrupt(tmp_path: Path) -> None:
    # It stops skipping where the pictures turn out to be far apart, while skipped ones are still on their way.
    times_s = [*np.arange(0, 1, 0.01), *np.arange(1, 4, 0.3)]
    path = write_at(tmp_path / "irregular.mkv", noise(4), times_s)
    reader = VideoReader(path, every_s=0.1, size=16)
    samples = list(reader)
    counts = reader.counts
    assert counts.corrupt == 0
    assert counts.skipped > 0
    assert counts.pictures == len(times_s) == counts.decoded + counts.skipped
    assert [s.pts_s for s in samples if s.pts_s >= 1] == pytest.approx(times_s[100:], abs=1e-3)


def test_a_group_without_end_does_not_wait_for_it() -> None:
    n_taken = 0

    def tickets() -> Iterator[Ticket]:
        nonlocal n_taken
        for n in range(100_000):
            n_taken += 1
            yield Ticket(index=n, time_s=0.0, is_keyframe=n == 0, n_bytes=10, packet=None)

    next(plan(tickets(), every_s=1.0))
    assert n_taken < 10_000
