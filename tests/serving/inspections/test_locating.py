"""Distances in the deliverables of real videos: off the picture, out of the file beside it, or none."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.counter_videos import RED_S, course_m, with_counter
from support.video_files import write_h264, write_pal

from serving.cli import cli
from serving.errors import ConfigError
from serving.formats.frames_parquet import read_frames
from serving.inspections import text_reader
from serving.inspections.sidecar import sidecar_of
from serving.inspections.video_result import VideoResult
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import score_videos
from serving.scorer import Scorer

SECONDS = 14


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classic, interlaced, and a newer one, both with a counter."""
    folder = tmp_path_factory.mktemp("footage")
    paint = with_counter(lambda time_s: f"{course_m(time_s):.2f} m")
    write_pal(folder / "classic.mpg", paint, seconds=SECONDS, start_s=7)
    write_h264(folder / "newer.mp4", paint, seconds=SECONDS)
    return folder


def document(result: VideoResult) -> Any:
    return json.loads((result.folder / "findings.json").read_text(encoding="utf-8"))


def score(video: Path, out: Path, scorer: Scorer, **settings: Any) -> VideoResult:
    (result,) = score_videos([video], out, scorer, VideoSettings(**settings))
    return result


@pytest.mark.parametrize("name", ["classic.mpg", "newer.mp4"])
def test_distances_off_the_picture_are_in_every_deliverable(
    name: str, footage: Path, scorer: Scorer, tmp_path: Path
) -> None:
    result = score(footage / name, tmp_path, scorer)
    written = document(result)
    assert written["distance"] == {"from": "osd", "reader": text_reader.reader_name()}
    (finding,) = written["findings"]
    assert RED_S[0] <= finding["frame_pts_s"] < RED_S[1]
    assert finding["distance_m"] == pytest.approx(course_m(finding["frame_pts_s"]), abs=0.03)
    assert finding["distance_source"] in ("osd", "interpolated")
    assert 0.5 <= finding["distance_confidence"] <= 1

    frames = read_frames(result.folder / "frames.parquet")
    known = [(t, d) for t, d in zip(frames.pts_s, frames.distance_m, strict=True) if d is not None]
    assert len(known) >= 0.9 * len(frames.pts_s)
    assert max(abs(distance_m - course_m(time_s)) for time_s, distance_m in known) <= 0.1
    assert [source == "none" for source in frames.distance_source] == [d is None for d in frames.distance_m]
    assert [c is None for c in frames.distance_confidence] == [d is None for d in frames.distance_m]

    shown = str(finding["distance_m"])
    with (result.folder / "findings.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["distance_m"], row["distance_source"]) == (shown, finding["distance_source"])
    with (result.folder / "pacp" / "PACP_Conditions.csv").open(newline="", encoding="utf-8-sig") as file:
        (condition,) = csv.DictReader(file)
    assert float(condition["Distance"]) == pytest.approx(finding["distance_m"], abs=0.01)
    assert finding["distance_source"] in (result.folder / "en13508.txt").read_text(encoding="utf-8-sig")
    assert f'"distance_m":{shown}' in (result.folder / "report.html").read_text(encoding="utf-8").replace(": ", ":")


def test_the_same_video_gives_the_same_distances(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    first, second = (score(footage / "newer.mp4", tmp_path / out, scorer) for out in ("a", "b"))
    names = ("findings.json", "findings.csv", "frames.parquet", "en13508.txt")
    assert [(first.folder / n).read_bytes() for n in names] == [(second.folder / n).read_bytes() for n in names]


def test_a_file_beside_the_video_comes_first_and_a_change_of_it_counts(
    footage: Path, scorer: Scorer, tmp_path: Path
) -> None:
    video = Path(shutil.copy(footage / "newer.mp4", tmp_path / "run.mp4"))
    sidecar_of(video).write_text("time_s,distance_m\n0,100\n14,114\n", encoding="utf-8")
    result = score(video, tmp_path / "out", scorer)
    (finding,) = document(result)["findings"]
    assert finding["distance_source"] == "sidecar"
    assert finding["distance_m"] == pytest.approx(100 + finding["frame_pts_s"], abs=1e-3)
    assert score(video, tmp_path / "out", scorer).status == "kept"
    sidecar_of(video).write_text("time_s,distance_m\n0,200\n14,214\n", encoding="utf-8")
    changed = score(video, tmp_path / "out", scorer)
    assert changed.status == "scored"
    assert document(changed)["findings"][0]["distance_m"] == pytest.approx(finding["distance_m"] + 100, abs=1e-3)
    # Asked for the picture's, the file is not looked at, be it as broken as can be.
    sidecar_of(video).write_text("far away", encoding="utf-8")
    failed = score(video, tmp_path / "out", scorer)
    assert (failed.status, "line 1" in failed.reason) == ("failed", True)
    assert document(score(video, tmp_path / "out", scorer, distance="osd"))["distance"]["from"] == "osd"
    nowhere = document(score(video, tmp_path / "out", scorer, distance="none"))["findings"][0]
    assert [nowhere[f"distance_{part}"] for part in ("m", "source", "confidence")] == [None, "none", None]


def test_a_file_that_is_asked_for_must_be_there(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    result = score(footage / "newer.mp4", tmp_path, scorer, distance="sidecar")
    assert result.status == "failed"
    assert "newer.mp4.distance.csv cannot be read" in result.reason


def test_without_a_reader_of_text_the_command_says_so(
    footage: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    text_reader.text_reader.cache_clear()
    arguments = ["videos", str(footage / "newer.mp4"), "--models", str(models), "--out", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match="pip install 'pipeprobe\\[osd\\]'"):
        CliRunner().invoke(cli, [*arguments, "--distance", "osd"], catch_exceptions=False)
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "distances are not read off the pictures" in result.stderr
    assert json.loads((tmp_path / "out/newer/findings.json").read_text())["distance"] == {"from": "none"}


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="auto, osd, sidecar, none"):
        VideoSettings(distance="gps")  # type: ignore[arg-type]  # that is the point
