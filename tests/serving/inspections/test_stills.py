"""Frames of a camera that stands still: told from all others, scored once, and switched off on demand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from support.video_files import write_h264, write_pal
from support.written_files import contents, read_csv, read_json

from serving.cli import cli
from serving.formats.frames_parquet import Frames, read_frames
from serving.inspections.stills import shows_the_same
from serving.inspections.video_result import VideoResult
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import score_videos
from serving.scorer import Scorer

SECONDS = 16
STOP_S = (4.0, 14.0)
TURNED_S = (8.0, 9.5)


def wall(seed: int, size: tuple[int, int] = (128, 320)) -> NDArray[np.uint8]:
    """A grey wall with smooth spots, red from column 240 on: what the tiny pair calls a defect."""
    coarse = np.random.default_rng(seed).integers(70, 180, (size[0] // 16, size[1] // 16)).astype(np.float32)
    fine = np.kron(coarse, np.ones((16, 16), np.float32))
    for axis in (0, 1):
        fine = sum(np.roll(fine, shift, axis) for shift in range(-6, 7)) / 13
    picture = np.repeat(fine[..., None], 3, axis=2)
    picture[:, 240:] = (230, 20, 20)
    return picture.astype(np.uint8)


def crawl(seed: int) -> Callable[[float], NDArray[np.uint8]]:
    """Drives along a wall, stands for STOP_S, and looks at the red part of the wall for TURNED_S of it; noisy."""
    whole = wall(seed)

    def paint(time_s: float) -> NDArray[np.uint8]:
        column = round(6 * min(time_s, STOP_S[0]) + 6 * max(0.0, time_s - STOP_S[1]))
        if TURNED_S[0] <= time_s < TURNED_S[1]:
            column = 160
        noise = np.random.default_rng(round(time_s * 1000)).normal(0, 3, (128, 160, 1))
        return np.clip(whole[:, column : column + 160] + noise, 0, 255).astype(np.uint8)

    return paint


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("footage")
    write_pal(folder / "classic.mpg", crawl(1), seconds=SECONDS)
    write_h264(folder / "newer.mp4", crawl(2), seconds=SECONDS)
    return folder


def score(video: Path, out: Path, scorer: Scorer, **settings: object) -> VideoResult:
    (result,) = score_videos([video], out, scorer, VideoSettings(distance="none", **settings))  # type: ignore[arg-type]
    return result


def frames_of(result: VideoResult) -> Frames:
    return read_frames(result.folder / "frames.parquet")


@pytest.mark.parametrize("name", ["classic.mpg", "newer.mp4"])
def test_a_standstill_is_scored_once_and_a_turn_of_the_head_in_it_too(
    name: str, footage: Path, scorer: Scorer, tmp_path: Path
) -> None:
    result = score(footage / name, tmp_path / "once", scorer)
    frames = frames_of(result)
    scored_s = [t for t, source in zip(frames.pts_s, frames.score_source, strict=True) if source == "scored"]
    driven = [t for t in frames.pts_s if not STOP_S[0] + 0.5 < t < STOP_S[1]]
    stood = [t for t in scored_s if STOP_S[0] + 0.5 < t < STOP_S[1]]
    assert [t for t in scored_s if t not in stood] == driven, "all that was taken while it drove"
    # The turn and the turn back, and no other: where it stood before is scored as driven.
    assert [round(t) for t in stood] == [8, 10]
    document = read_json(result.folder / "findings.json")
    (finding,) = document["findings"]
    assert abs(finding["start_s"] - TURNED_S[0]) <= 0.5
    assert abs(finding["end_s"] - TURNED_S[1]) <= 0.5
    # And it is what scoring every frame finds.
    every = score(footage / name, tmp_path / "every", scorer, repeat_stills=True)
    (same,) = read_json(every.folder / "findings.json")["findings"]
    assert (same["start_s"], same["end_s"]) == (finding["start_s"], finding["end_s"])
    assert every.frames_still == 0
    assert every.frames_scored == every.frames_sampled == result.frames_sampled


def test_counts_add_up_wherever_they_are_given(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    result = score(footage / "newer.mp4", tmp_path, scorer)
    frames = frames_of(result)
    document = read_json(result.folder / "findings.json")
    reading, sampling = document["reading"], document["sampling"]
    assert reading["pictures"] == reading["decoded"] + reading["skipped"] + reading["corrupt"] + reading["lost"]
    assert reading["sampled"] == sampling["scored"] + sampling["still"] + sampling["between"] == len(frames.pts_s)
    assert sampling["still"] == frames.score_source.count("still") > 10  # type: ignore[attr-defined]  # it is a list
    (row,) = read_csv(tmp_path / "summary.csv")
    parts = [int(row[f"frames_{part}"]) for part in ("scored", "still", "between")]
    assert int(row["frames_sampled"]) == sum(parts)
    counts = read_json(tmp_path / "manifest.json")["counts"]
    assert [counts[f"frames_{part}"] for part in ("scored", "still", "between")] == parts
    for (before, before_score), (source, score_) in pairwise(zip(frames.score_source, frames.score, strict=True)):
        assert source != "still" or score_ == before_score, before


def test_again_is_the_same_and_the_switch_counts(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    for out in "ab":
        score(footage / "classic.mpg", tmp_path / out, scorer)
    a, b = (contents(tmp_path / out) for out in "ab")
    del a["timing.json"], b["timing.json"]
    assert a == b
    assert score(footage / "classic.mpg", tmp_path / "a", scorer).status == "kept"
    assert score(footage / "classic.mpg", tmp_path / "a", scorer, repeat_stills=True).status == "scored"


@pytest.mark.parametrize("option", ["--repeat-stills", "--all"])
def test_the_command_scores_them_on_demand(option: str, footage: Path, models: Path, tmp_path: Path) -> None:
    arguments = ["videos", str(footage / "newer.mp4"), "--models", str(models), "--out", str(tmp_path), option]
    result = CliRunner().invoke(cli, [*arguments, "--distance", "none"])
    assert result.exit_code == 0, result.output
    counts = read_json(tmp_path / "manifest.json")["counts"]
    assert counts["frames_scored"] == counts["frames_sampled"] == (16 * 25 if option == "--all" else 35)


def test_noise_is_the_same_and_a_spot_a_shift_and_a_light_are_not() -> None:
    rng = np.random.default_rng(3)
    picture = wall(5)[:112, :112].astype(int)

    def taken(content: NDArray[np.int_]) -> NDArray[np.uint8]:
        return np.clip(content + rng.normal(0, 4, content.shape), 0, 255).astype(np.uint8)

    assert all(shows_the_same(taken(picture), taken(picture)) for _ in range(20))
    spot = picture.copy()
    spot[40:48, 56:64] += 25
    assert not shows_the_same(taken(picture), taken(spot))
    assert not shows_the_same(taken(picture), taken(np.roll(picture, 4, axis=1)))
    assert not shows_the_same(taken(picture), taken(picture + 8))


@pytest.mark.parametrize("side", [1, 14, 32, 100, 112, 224])
def test_frames_of_any_size_are_compared(side: int) -> None:
    dark, bright = (np.full((side, side, 3), level, np.uint8) for level in (50, 60))
    assert shows_the_same(dark, dark)
    assert not shows_the_same(dark, bright)
