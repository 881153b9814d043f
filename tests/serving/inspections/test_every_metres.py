"""Inspections sampled by the metre: real videos with a counter, with a file beside them, and with neither."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.counter_videos import RED_S, course_m, with_counter
from support.video_files import red_between, write_h264, write_pal
from support.written_files import contents, read_csv, read_json

from serving.cli import cli
from serving.errors import ConfigError
from serving.formats.frames_parquet import Frames, read_frames
from serving.inspections.sidecar import sidecar_of
from serving.inspections.spacing import spacing_of
from serving.inspections.video_result import VideoResult
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import score_videos
from serving.scorer import Scorer

SECONDS = 50
EVERY_M = 0.3


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classic and a newer one with a counter, and one that shows none."""
    folder = tmp_path_factory.mktemp("footage")
    paint = with_counter(lambda time_s: f"{course_m(time_s):.2f} m")
    write_pal(folder / "classic.mpg", paint, seconds=SECONDS, start_s=7)
    write_h264(folder / "newer.mp4", paint, seconds=SECONDS)
    write_h264(folder / "plain.mp4", red_between(*RED_S), seconds=10)
    return folder


def score(video: Path, out: Path, scorer: Scorer, **settings: Any) -> VideoResult:
    (result,) = score_videos([video], out, scorer, VideoSettings(**settings))
    return result


def scored_places(frames: Frames) -> list[tuple[float, float | None]]:
    rows = zip(frames.pts_s, frames.distance_m, frames.score_source, strict=True)
    return [(time_s, distance_m) for time_s, distance_m, source in rows if source == "scored"]


@pytest.mark.parametrize("name", ["classic.mpg", "newer.mp4"])
def test_a_counter_spaces_the_scored_frames(name: str, footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    # Behind the counter the picture is the same all the way, which no pipe's is.
    result = score(footage / name, tmp_path, scorer, every_m=EVERY_M, repeat_stills=True)
    document, frames = read_json(result.folder / "findings.json"), read_frames(result.folder / "frames.parquet")
    reading, sampling = document["reading"], document["sampling"]
    assert len(frames.pts_s) == reading["sampled"] == sampling["scored"] + sampling["still"] + sampling["between"]
    assert reading["pictures"] == reading["decoded"] + reading["skipped"] + reading["corrupt"]
    # 0.15 m/s makes 2 s a step; until the counter has moved enough to be known as one, all are scored.
    after = [(time_s, course_m(time_s)) for time_s, _ in scored_places(frames) if time_s > 15]
    assert all(1.4 <= b[0] - a[0] <= 2.5 for a, b in pairwise(after[:-1]))
    assert max(b[1] - a[1] for a, b in pairwise(after)) <= EVERY_M + 0.1
    assert sampling["scored"] < 0.55 * reading["sampled"]
    assert 0.2 < sampling["spacing_m"] <= sampling["longest_gap_m"] <= EVERY_M + 0.1
    # What is red is found where it is.
    (finding,) = document["findings"]
    assert RED_S[0] <= finding["frame_pts_s"] < RED_S[1]
    assert abs(finding["start_s"] - RED_S[0]) <= 2.5
    assert abs(finding["end_s"] - RED_S[1]) <= 2.5
    (row,) = read_csv(tmp_path / "summary.csv")
    assert (row["frames_scored"], float(row["longest_gap_m"])) == (str(sampling["scored"]), sampling["longest_gap_m"])
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["scoring"]["every_m"] == EVERY_M
    assert manifest["counts"]["frames_scored"] == sampling["scored"]
    assert manifest["longest_gap_m"] == sampling["longest_gap_m"]


def test_a_score_is_taken_over_from_the_frame_before(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    frames = read_frames(score(footage / "newer.mp4", tmp_path, scorer, every_m=EVERY_M).folder / "frames.parquet")
    rows = list(zip(frames.score_source, frames.score, frames.logit, strict=True))
    assert sum(source == "between" for source, *_ in rows) > 10
    for before, here in pairwise(rows):
        if here[0] == "between":
            assert here[1:] == before[1:]


def test_again_is_the_same_and_another_step_is_not(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    first = score(footage / "newer.mp4", tmp_path / "a", scorer, every_m=EVERY_M)
    score(footage / "newer.mp4", tmp_path / "b", scorer, every_m=EVERY_M)
    a, b = (contents(tmp_path / out) for out in "ab")
    assert {name: each for name, each in a.items() if name != "timing.json"} == {
        name: each for name, each in b.items() if name != "timing.json"
    }
    assert score(footage / "newer.mp4", tmp_path / "a", scorer, every_m=EVERY_M).status == "kept"
    wider = score(footage / "newer.mp4", tmp_path / "a", scorer, every_m=2 * EVERY_M)
    assert wider.status == "scored"
    assert wider.frames_scored < first.frames_scored
    assert score(footage / "newer.mp4", tmp_path / "a", scorer).status == "scored"


def test_a_file_beside_the_video_spaces_them_too(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    video = Path(shutil.copy(footage / "plain.mp4", tmp_path / "run.mp4"))
    sidecar_of(video).write_text("time_s,distance_m\n0,5\n4,5.8\n6,5.8\n10,5\n", encoding="utf-8")
    result = score(video, tmp_path / "out", scorer, every_m=0.25)
    frames = read_frames(result.folder / "frames.parquet")
    times_s = [time_s for time_s, _ in scored_places(frames)]
    # Of a frame every 0.48 s, 0.2 m/s takes every second one; from 4 s to 6 s it stands, looked at 2.4 s apart.
    np.testing.assert_allclose(times_s, [0, 0.96, 1.92, 2.88, 5.28, 7.2, 8.16, 9.12, 9.96], atol=1e-6)
    assert (result.frames_scored, result.frames_sampled) == (9, len(frames.pts_s))
    assert result.longest_gap_m == pytest.approx(0.24)


def test_without_a_distance_nothing_is_left_out(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    by_metre = score(footage / "plain.mp4", tmp_path / "a", scorer, every_m=0.25, repeat_stills=True)
    by_time = score(footage / "plain.mp4", tmp_path / "b", scorer, every_s=0.5, repeat_stills=True)
    assert read_frames(by_metre.folder / "frames.parquet") == read_frames(by_time.folder / "frames.parquet")
    assert (by_metre.longest_gap_m, by_metre.frames_scored) == (None, by_time.frames_sampled)
    assert read_json(by_metre.folder / "findings.json")["sampling"]["unlocated"] == by_metre.frames_scored


def test_a_counter_that_is_set_back_leaves_no_gap() -> None:
    n = 4
    frames = Frames(
        pts_s=[0.0, 1.0, 2.0, 3.0],
        score=[0.0] * n,
        logit=[0.0] * n,
        kind=["keyframe"] * n,
        score_source=["scored", "scored", "between", "scored"],
        distance_m=[41.8, 42.0, 0.1, 0.3],
        distance_source=["osd"] * n,
        distance_confidence=[0.9] * n,
    )
    assert (spacing_of(frames).spacing_m, spacing_of(frames).longest_gap_m) == (0.2, 0.2)


def videos(video: Path, models: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["videos", str(video), "--models", str(models), "--out", str(out), *options])


def test_the_command_takes_metres_and_says_what_came_of_them(footage: Path, models: Path, tmp_path: Path) -> None:
    result = videos(footage / "newer.mp4", models, tmp_path, "--every", "0.3m")
    assert result.exit_code == 0, result.output
    summary = read_json(tmp_path / "summary.json")
    assert summary["scoring"]["every_m"] == 0.3
    assert f"{summary['results'][0]['longest_gap_m']:.2f} m" in result.output
    assert "Apart along the pipe" in (tmp_path / "newer" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["-1m", "0.25 ft", "0,25m", "1 m/s", "m", "nanm"])
def test_what_is_no_step_is_refused_with_examples(text: str, footage: Path, models: Path, tmp_path: Path) -> None:
    result = videos(footage / "plain.mp4", models, tmp_path, "--every", text)
    assert result.exit_code == 2
    assert "say 0.5s, 200ms or 0.25m" in result.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--every", "0m"], "a frame every 0.0 m is not possible; take 0.01 to 5 m"),
        (["--every", "6m"], "take 0.01 to 5 m"),
        (["--every", "0.25m", "--distance", "none"], "needs a distance"),
        (["--every", "0.25m", "--all"], "give one of them"),
    ],
)
def test_steps_that_cannot_be_are_refused(
    options: list[str], why: str, footage: Path, models: Path, tmp_path: Path
) -> None:
    result = videos(footage / "plain.mp4", models, tmp_path / "out", *options)
    assert isinstance(result.exception, ConfigError)
    assert why in str(result.exception)
    assert not (tmp_path / "out").exists()
