"""Frames out of real files: exact times, the cheapest way through, and what broken files cost."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from support.video_files import (
    clock_error_s,
    clock_face,
    damage,
    noise,
    red_between,
    truncate,
    write_audio_only,
    write_h264,
    write_pal,
    write_video,
)

from serving.errors import VideoError
from serving.inspections.video import (
    Counts,
    Sample,
    Stretch,
    VideoInfo,
    VideoReader,
    open_video,
    unscored_stretches,
)

LENGTH_S = 12.0


@pytest.fixture(scope="module")
def pal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pal(tmp_path_factory.mktemp("pal") / "pal.mpg", clock_face(), seconds=LENGTH_S, start_s=37)


@pytest.fixture(scope="module")
def h264(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_h264(tmp_path_factory.mktemp("h264") / "long.mp4", clock_face(), seconds=LENGTH_S)


@pytest.fixture(scope="module")
def noisy_pal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pal(tmp_path_factory.mktemp("noisy") / "noisy.mpg", noise(0), seconds=LENGTH_S)


def read(path: Path, every_s: float, size: int = 16) -> tuple[list[Sample], Counts]:
    reader = VideoReader(path, every_s=every_s, size=size)
    samples = list(reader)
    check_counts(reader, len(samples))
    return samples, reader.counts


def check_counts(reader: VideoReader, n_samples: int) -> None:
    counts = reader.counts
    assert counts.pictures == counts.decoded + counts.skipped + counts.corrupt
    assert counts.sampled == n_samples <= counts.decoded
    assert min(counts.skipped, counts.corrupt) >= 0


def largest_gap(samples: list[Sample]) -> float:
    return max(later.pts_s - earlier.pts_s for earlier, later in pairwise(samples))


@pytest.mark.parametrize("every_s", [0.04, 0.1, 0.5, 0.7, 3.0])
@pytest.mark.parametrize("kind", ["pal", "h264"])
def test_times_are_those_of_the_content_and_no_gap_is_wider_than_asked(
    kind: str, every_s: float, pal: Path, h264: Path
) -> None:
    samples, counts = read(pal if kind == "pal" else h264, every_s)
    assert counts.pictures == 300
    assert counts.corrupt == 0
    assert samples[0].pts_s == 0
    for sample in samples:
        assert sample.frame.shape == (16, 16, 3)
        assert clock_error_s(sample.frame, sample.pts_s) < 0.06
    assert largest_gap(samples) <= every_s + 1e-3
    assert counts.longest_gap_s == pytest.approx(largest_gap(samples))
    assert LENGTH_S - samples[-1].pts_s <= every_s + 0.04
    # No more than needed: leaving out any sample would make a gap too wide.
    assert all(c.pts_s - a.pts_s > every_s for a, c in zip(samples[:-2], samples[2:-1], strict=False))


def test_short_groups_cost_their_keyframes_only(pal: Path) -> None:
    samples, counts = read(pal, 0.5)
    assert counts.strategy == "keyframes"
    assert counts.keyframe_spacing_s == pytest.approx(0.48)
    assert counts.spacing_s == pytest.approx(0.48)
    assert counts.decoded == counts.sampled == len(samples)
    assert read(pal, 2.0)[1].decoded == len(read(pal, 2.0)[0])


def test_long_groups_are_decoded_in_sequence_without_what_nothing_refers_to(h264: Path) -> None:
    _, counts = read(h264, 0.5)
    assert counts.strategy == "sequential"
    assert counts.keyframe_spacing_s == pytest.approx(10.0)
    assert 100 < counts.decoded < 250
    assert read(h264, 0.04)[1].decoded == 300
    # A step that keyframes satisfy needs nothing else.
    assert read(h264, 10.0)[1].decoded == 2


def test_short_and_long_groups_in_one_video(tmp_path: Path) -> None:
    halves = [write_h264(tmp_path / f"{gop}.ts", clock_face(), seconds=6, gop=gop) for gop in (5, 250)]
    glued = tmp_path / "glued.ts"
    glued.write_bytes(b"".join(half.read_bytes() for half in halves))
    samples, counts = read(glued, 0.5)
    assert counts.strategy == "mixed"
    assert largest_gap(samples) <= 0.5 + 1e-3
    # The second recording begins anew; its times continue where those of the first one ended.
    assert samples[-1].pts_s == pytest.approx(11.96, abs=0.1)
    assert all(clock_error_s(s.frame, s.pts_s % 6) < 0.1 for s in samples)


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("a.avi", "mpeg4", None),
        ("a.wmv", "wmv2", "asf"),
        ("a.mkv", "libx264", None),
        ("a.ts", "libx264", None),
        ("a.m2v", "mpeg2video", "mpeg2video"),
        ("a.mov", "mjpeg", None),
        ("a.mpeg", "mpeg1video", "mpeg"),
        ("h264.avi", "libx264", None),
    ],
)
def test_containers_of_the_field(name: str, codec: str, container: str | None, tmp_path: Path) -> None:
    path = write_video(
        tmp_path / name,
        clock_face(),
        seconds=4,
        codec=codec,
        container=container,
        start_s=3 * (name == "a.mkv"),
        pixels="yuvj420p" if codec == "mjpeg" else "yuv420p",
        options={"strict": "unofficial"} if codec == "mjpeg" else {},
    )
    samples, counts = read(path, 0.5)
    assert counts.pictures == 100
    assert counts.corrupt == 0
    assert largest_gap(samples) <= 0.5 + 1e-3
    for sample in samples:
        # AVI stamps H.264 in coding order, up to four pictures off.
        assert clock_error_s(sample.frame, sample.pts_s) < (0.2 if name == "h264.avi" else 0.08)


def test_few_frames_a_second_are_all_sampled(tmp_path: Path) -> None:
    path = write_video(tmp_path / "slow.mp4", clock_face(), seconds=10, codec="libx264", fps=1, gop=250)
    samples, counts = read(path, 0.5)
    assert [s.pts_s for s in samples] == list(range(10))
    assert counts.spacing_s == 1.0


def test_one_picture_is_a_video_too(tmp_path: Path) -> None:
    path = write_h264(tmp_path / "short.mp4", clock_face(), seconds=0.04)
    samples, counts = read(path, 0.5)
    assert [s.pts_s for s in samples] == [0.0]
    assert (counts.spacing_s, counts.longest_gap_s) == (None, None)


def test_what_a_video_declares(pal: Path) -> None:
    info = open_video(pal)
    assert (info.container, info.codec, info.width, info.height) == ("mpeg", "mpeg2video", 160, 128)
    assert info.frame_rate == 25
    assert info.start_s is not None
    assert info.start_s >= 37
    assert info.duration_s == pytest.approx(LENGTH_S, abs=1)  # program streams leave it to be estimated


def test_interlaced_pictures_give_one_field_in_their_true_shape(tmp_path: Path) -> None:
    def comb(time_s: float) -> np.ndarray:
        picture = np.full((128, 160, 3), 40, np.uint8)
        picture[1::2] = 200
        return picture

    for interlaced, even_rows in ((True, 40), (False, 120)):
        path = write_video(
            tmp_path / f"{interlaced}.mpg",
            comb,
            seconds=0.2,
            codec="mpeg2video",
            interlaced=interlaced,
            sample_aspect=Fraction(16, 15),
        )
        sample = next(iter(VideoReader(path, every_s=0.04, size=32)))
        assert sample.frame.mean() == pytest.approx(even_rows, abs=6)
        assert sample.picture.to_rgb().shape[0] == (64 if interlaced else 128)
        # 160 pixels that are 16:15 wide, beside 128 lines.
        assert sample.picture.to_display(768).shape == (128, 171, 3)
        assert sample.picture.to_display(85).shape == (64, 85, 3)


@pytest.mark.parametrize(("rotation", "corner"), [(0, "top left"), (90, "bottom left"), (270, "top right")])
def test_rotated_recordings_are_turned_upright(rotation: int, corner: str, tmp_path: Path) -> None:
    def mark(time_s: float) -> np.ndarray:
        picture = np.full((96, 160, 3), 30, np.uint8)
        picture[:32, :32] = 220
        return picture

    path = write_video(tmp_path / "turned.mp4", mark, seconds=0.2, codec="libx264", rotation=rotation)
    sample = next(iter(VideoReader(path, every_s=0.04, size=64)))
    expected = (96, 160, 3) if rotation == 0 else (160, 96, 3)
    assert sample.picture.to_display(768).shape == expected
    halves = {
        "top left": sample.frame[:16, :8],
        "bottom left": sample.frame[-8:, :16],
        "top right": sample.frame[:8, -16:],
    }
    assert {name: half.mean() > 120 for name, half in halves.items()} == {name: name == corner for name in halves}


@pytest.mark.parametrize("every_s", [0.04, 0.5])
def test_a_damaged_stretch_costs_only_itself(every_s: float, noisy_pal: Path, tmp_path: Path) -> None:
    samples, counts = read(damage(noisy_pal, tmp_path / "damaged.mpg", start=0.45, end=0.55), every_s)
    times = [s.pts_s for s in samples]
    lost_s = 0.1 * LENGTH_S + 2 * 0.48  # and the rest of the two groups that it cuts into
    assert counts.longest_gap_s is not None
    assert counts.longest_gap_s <= lost_s + every_s
    assert times[0] == 0
    assert times[-1] > LENGTH_S - 0.6
    assert all(5 < stretch.start_s <= stretch.end_s < 8 for stretch in counts.corrupt_stretches)
    if every_s == 0.04:
        assert counts.corrupt > 0


def test_damage_in_a_long_group_is_counted_and_read_past(tmp_path: Path) -> None:
    sound = write_h264(tmp_path / "sound.mp4", noise(1), seconds=LENGTH_S)
    samples, counts = read(damage(sound, tmp_path / "damaged.mp4", start=0.4, end=0.45), 0.5)
    assert counts.corrupt > 0
    assert counts.pictures == 300
    assert samples[-1].pts_s > LENGTH_S - 0.6
    assert sum(s.end_s - s.start_s for s in counts.corrupt_stretches) < 2


def test_a_truncated_file_is_read_to_where_it_ends(noisy_pal: Path, tmp_path: Path) -> None:
    samples, _ = read(truncate(noisy_pal, tmp_path / "cut.mpg", share=0.5), 0.5)
    assert samples[-1].pts_s == pytest.approx(LENGTH_S / 2, abs=1)


def test_a_video_that_ends_before_its_declared_end_shows_what_is_missing(tmp_path: Path) -> None:
    whole = write_video(
        tmp_path / "whole.mkv", noise(2), seconds=LENGTH_S, codec="libx264", options={"preset": "veryfast"}
    )
    cut = truncate(whole, tmp_path / "cut.mkv", share=0.5)
    samples, counts = read(cut, 0.5)
    (missing,) = unscored_stretches([s.pts_s for s in samples], step_s=0.5, info=open_video(cut), counts=counts)
    assert missing.start_s == samples[-1].pts_s
    assert missing.end_s == pytest.approx(LENGTH_S, abs=0.1)


def test_stretches_without_samples() -> None:
    info = VideoInfo(
        path=Path("x.mpg"),
        container="mpeg",
        codec="mpeg2video",
        width=4,
        height=4,
        sample_aspect=Fraction(1),
        frame_rate=25,
        start_s=0,
        duration_s=20,
    )
    counts = Counts(
        strategy="keyframes",
        pictures=0,
        decoded=0,
        sampled=0,
        skipped=0,
        corrupt=0,
        corrupt_stretches=(),
        keyframe_spacing_s=None,
        spacing_s=None,
        longest_gap_s=None,
        last_picture_s=19.9,
    )

    def unscored(*times_s: float) -> list[Stretch]:
        return list(unscored_stretches(times_s, step_s=5, info=info, counts=counts))

    assert unscored(0, 5, 10, 15, 20) == []
    assert unscored(0, 10, 19) == []
    assert unscored(11, 18) == [Stretch(start_s=0, end_s=11)]
    assert unscored(0, 9) == [Stretch(start_s=9, end_s=20)]


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("absent", "No such file"),
        ("empty", "0 bytes"),
        ("text", "text file"),
        ("binary", "not a video"),
        ("picture", "not a video"),
        ("playlist", "text file"),
        ("sound", "no pictures, only audio"),
        ("folder", "no file"),
        ("mp4 without index", "without its index"),
    ],
)
def test_what_is_no_video_is_refused_by_name(kind: str, why: str, h264: Path, tmp_path: Path) -> None:
    path = tmp_path / ("x.mp4" if kind == "mp4 without index" else "x.mpg")
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is no video " * 100)
    elif kind == "binary":
        path.write_bytes(bytes(range(256)) * 100)
    elif kind == "picture":
        with av.open(str(path), "w", format="image2") as output:
            stream = output.add_stream("png", rate=1)
            stream.pix_fmt = "rgb24"
            stream.width = stream.height = 16
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
    elif kind == "playlist":
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{h264}\n")
    elif kind == "sound":
        write_audio_only(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "mp4 without index":
        truncate(h264, path, share=0.5)
    with pytest.raises(VideoError, match=rf"x\.mp[4g]:? .*{why}"):
        open_video(path)
    with pytest.raises(VideoError, match=rf"x\.mp[4g]:? .*{why}"):
        list(VideoReader(path, every_s=1, size=16))


def test_a_video_without_one_good_picture_is_an_error(tmp_path: Path) -> None:
    sound = write_video(tmp_path / "sound.mp4", red_between(0, 1), seconds=2, codec="libx264")
    data = bytearray(sound.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    (tmp_path / "bad.mp4").write_bytes(data)
    with pytest.raises(VideoError, match=r"bad\.mp4: none of its \d+ pictures can be decoded"):
        list(VideoReader(tmp_path / "bad.mp4", every_s=0.5, size=16))


def test_impossible_arguments_are_refused(pal: Path) -> None:
    with pytest.raises(ValueError, match="positive"):
        VideoReader(pal, every_s=0, size=16)
    with pytest.raises(ValueError, match="positive"):
        VideoReader(pal, every_s=1, size=0)


def test_a_reader_that_stops_early_leaves_the_counts_so_far(pal: Path) -> None:
    reader = VideoReader(pal, every_s=0.5, size=16)
    for n, _ in enumerate(reader, start=1):
        if n == 3:
            break
    assert reader.counts.sampled == 3
