"""The files of a batch, from real videos with the tiny pair, and of a command that is killed and run again."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import run_script
from support.video_files import red_between, repeat, truncate, write_h264
from support.written_files import contents, read_json

from serving.durable import sha256_file
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import find_videos, score_videos
from serving.scorer import Scorer

TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short inspection, one of two minutes, and a file without its index."""
    folder = tmp_path_factory.mktemp("footage")
    short = write_h264(folder / "a.mp4", red_between(1, 3), seconds=4)
    repeat(short, folder / "b.mp4", times=30)
    truncate(short, folder / "c.mp4", share=0.5)
    return folder


@pytest.fixture(scope="module")
def scored(footage: Path, scorer: Scorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored")
    score_videos(find_videos([footage]), out, scorer, VideoSettings())
    return out


def without_timing(out: Path) -> dict[str, bytes]:
    """Every file but locks, the one that tells one run from another, and what a killed process was writing."""
    return {
        name: data for name, data in contents(out).items() if name != "timing.json" and Path(name).suffix != ".partial"
    }


def test_the_manifest_lists_what_went_in_and_what_came_out(footage: Path, scorer: Scorer, scored: Path) -> None:
    manifest = read_json(scored / "manifest.json")
    names = ("a.mp4", "b.mp4", "c.mp4")
    assert manifest["inputs"] == [
        {
            "video": str(footage / name),
            "video_sha256": sha256_file(footage / name),
            "folder": None if name == "c.mp4" else Path(name).stem,
        }
        for name in names
    ]
    expected = {name: sha256_file(scored / name) for name in without_timing(scored) if name != "manifest.json"}
    assert manifest["outputs"] == expected
    assert len(expected) == 2 * 9 + 2 * (1 + 30) + 3  # two videos, their peaks, the batch's
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"pipeprobe", "av", "numpy", "pyarrow"} <= set(manifest["versions"])
    assert (manifest["scoring"]["pair"], manifest["scoring"]["every_s"]) == ("tiny", 0.5)


def test_the_manifest_counts_and_names_failures(footage: Path, scored: Path) -> None:
    manifest = read_json(scored / "manifest.json")
    assert manifest["videos"] == {"scored": 2, "failed": 1, "incomplete": 0}
    (failure,) = manifest["failures"]
    assert failure["video"] == str(footage / "c.mp4")
    assert "without its index" in failure["reason"]
    counts = manifest["counts"]
    assert counts["findings"] == 31
    assert counts["frames"] == 31 * 100 == sum(counts[f"frames_{fate}"] for fate in ("decoded", "skipped", "corrupt"))


def test_timing_stands_apart(footage: Path, scored: Path, scorer: Scorer, tmp_path: Path) -> None:
    first = without_timing(scored)
    timing = read_json(scored / "timing.json")
    assert [each["status"] for each in timing["videos"]] == ["scored", "scored", "failed"]
    assert timing["seconds_taken"] >= sum(each["seconds_taken"] for each in timing["videos"]) > 0
    score_videos(find_videos([footage]), scored, scorer, VideoSettings())
    assert without_timing(scored) == first
    assert [each["status"] for each in read_json(scored / "timing.json")["videos"]] == ["kept", "kept", "failed"]
    # Scored elsewhere, all but the timing is the same too.
    score_videos(find_videos([footage]), tmp_path / "elsewhere", scorer, VideoSettings())
    assert without_timing(tmp_path / "elsewhere") == first


def test_the_summary_has_a_row_a_video_and_no_times(scored: Path, footage: Path) -> None:
    with (scored / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(Path(row["video"]).name, row["status"], row["findings"]) for row in rows] == [
        ("a.mp4", "scored", "1"),
        ("b.mp4", "scored", "30"),
        ("c.mp4", "failed", "0"),
    ]
    assert [row["video_sha256"] for row in rows] == [sha256_file(footage / Path(row["video"]).name) for row in rows]
    assert "seconds_taken" not in rows[0]


def test_there_is_no_manifest_while_videos_are_scored(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    score_videos([footage / "a.mp4"], tmp_path, scorer, VideoSettings())
    seen: list[bool] = []
    score_videos(
        [footage / "a.mp4", footage / "c.mp4"],
        tmp_path,
        scorer,
        VideoSettings(),
        on_done=lambda result: seen.append((tmp_path / "manifest.json").exists()),
    )
    assert seen == [False, False]
    assert (tmp_path / "manifest.json").exists()


def has_begun(out: Path) -> bool:
    return (out / "a").exists()


def has_finished_one(out: Path) -> bool:
    return (out / "a" / "findings.json").exists()


def has_begun_the_second(out: Path) -> bool:
    return (out / "b").exists()


def test_killed_again_and_again_the_command_ends_with_the_bytes_of_one_run(
    models: Path, footage: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for reached in (has_begun, has_finished_one, has_begun_the_second):
        kill_once(reached, out, models, footage)
    # It ends with 1, since one of the files is no video, so that one is left out here.
    videos = [footage / "a.mp4", footage / "b.mp4"]
    for folder in (out, tmp_path / "uninterrupted"):
        run_script("pipeprobe", "videos", *videos, "--out", folder, cwd=tmp_path, models=models, timeout_s=TIMEOUT_S)
    assert without_timing(out) == without_timing(tmp_path / "uninterrupted")


def kill_once(reached: Callable[[Path], bool], out: Path, models: Path, footage: Path) -> None:
    """Start the command and kill it, as no process can refuse, as soon as `reached`, or let it end before."""
    process = subprocess.Popen(
        [sys.executable, "-m", "serving", "videos", str(footage / "a.mp4"), str(footage / "b.mp4"), "--out", str(out)],
        env=os.environ | {"PIPEPROBE_MODELS": str(models)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while process.poll() is None and not reached(out) and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert reached(out), errors.decode()
