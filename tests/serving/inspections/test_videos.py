"""The batch scorer on real files with the tiny pair, whose score rises with redness."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.tiny_pair import write_tiny_pair
from support.video_files import red_between, truncate, write_audio_only, write_h264, write_pal, write_video
from support.written_files import contents, read_csv, read_json

from serving.cli import cli
from serving.durable import sha256_file
from serving.errors import ConfigError, OperatingPointNotFoundError, PipeprobeError
from serving.formats.frames_parquet import read_frames
from serving.inspections.deliverables import deliverables
from serving.inspections.video_result import VideoResult
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import LOCKS, find_videos, output_folders, score_videos
from serving.pairs.pair import load_pair
from serving.scorer import Scorer

EVERY_S = 0.5
RED_S = (4.0, 7.0)
GOOD = ("classic.mpg", "newer.mp4")
BROKEN = {
    "text.mpg": "text file",
    "empty.mpg": "0 bytes",
    "sound.mpg": "no pictures",
    "no_index.mp4": "without its index",
}


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sound inspections, four files that are none, and a note."""
    folder = tmp_path_factory.mktemp("footage")
    paint = red_between(*RED_S)
    write_pal(folder / "classic.mpg", paint, seconds=10, start_s=12)
    write_h264(folder / "newer.mp4", paint, seconds=10)
    (folder / "text.mpg").write_text("no video at all " * 50)
    (folder / "empty.mpg").touch()
    write_audio_only(folder / "sound.mpg")
    truncate(folder / "newer.mp4", folder / "no_index.mp4", share=0.5)
    (folder / "notes.txt").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def scored(footage: Path, scorer: Scorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored")
    score_videos(find_videos([footage]), out, scorer, VideoSettings())
    return out


@pytest.mark.parametrize("name", GOOD)
def test_findings_lie_where_the_red_is(name: str, footage: Path, scored: Path) -> None:
    folder = scored / Path(name).stem
    document = read_json(folder / "findings.json")
    (finding,) = document["findings"]
    step_s = document["reading"]["step_s"]
    assert step_s == EVERY_S
    assert RED_S[0] <= finding["start_s"] <= RED_S[0] + step_s
    assert abs(finding["end_s"] - RED_S[1]) <= step_s
    assert RED_S[0] <= finding["frame_pts_s"] < RED_S[1]
    assert document["video_sha256"] == finding["video_sha256"] == sha256_file(footage / name)
    assert document["reading"]["strategy"] == ("keyframes" if name == "classic.mpg" else "sequential")
    assert document["unscored"] == []


@pytest.mark.parametrize("name", GOOD)
def test_every_sampled_frame_is_in_the_table_of_frames(name: str, scored: Path) -> None:
    folder = scored / Path(name).stem
    reading = read_json(folder / "findings.json")["reading"]
    frames = read_frames(folder / "frames.parquet")
    assert reading["pictures"] == 250 == reading["decoded"] + reading["skipped"] + reading["corrupt"]
    assert len(frames.pts_s) == reading["sampled"] <= reading["decoded"]
    for pts_s, score in zip(frames.pts_s, frames.score, strict=True):
        assert (score >= 0.5) == (RED_S[0] <= pts_s < RED_S[1])
    # The tiny pair's calibration.
    np.testing.assert_allclose(frames.score, 1 / (1 + np.exp(-(0.8 * np.array(frames.logit) + 0.1))), atol=1e-6)
    assert set(frames.kind) == ({"keyframe"} if name == "classic.mpg" else {"keyframe", "predicted"})
    assert set(frames.distance_m) == set(frames.distance_confidence) == {None}


def test_a_folder_holds_its_deliverables_and_nothing_else(scored: Path) -> None:
    tables = ("Conditions", "Inspections", "Media_Conditions", "Media_Inspections")
    expected = ["en13508.txt", "findings.csv", "findings.json", "frames.parquet"]
    expected += [*(f"pacp/PACP_{table}.csv" for table in tables), "peak_001.jpg", "peak_001_bare.jpg"]
    for name in ("classic", "newer"):
        assert sorted(contents(scored / name)) == [*expected, "report.html"]
        assert sorted(deliverables(read_json(scored / name / "findings.json"))) == expected


def test_the_peak_picture_shows_the_finding(scored: Path) -> None:
    for name in ("classic", "newer"):
        with Image.open(scored / name / "peak_001.jpg") as photo:
            assert photo.size == (160, 128)
            red, green, _ = np.asarray(photo).mean((0, 1))
        assert red > green + 100


def test_broken_videos_are_reported_and_stop_nothing(scored: Path) -> None:
    summary = read_json(scored / "summary.json")
    assert summary["videos"] == {"scored": 2, "failed": 4, "incomplete": 0}
    results = {Path(each["video"]).name: each for each in summary["results"]}
    assert set(results) == {*GOOD, *BROKEN}
    for name, why in BROKEN.items():
        assert results[name]["status"] == "failed"
        assert name in results[name]["reason"]
        assert why in results[name]["reason"]
    rows = {Path(row["video"]).name: row for row in read_csv(scored / "summary.csv")}
    assert rows["newer.mp4"]["findings"] == "1"
    assert int(rows["newer.mp4"]["frames"]) == 250
    assert rows["empty.mpg"]["status"] == "failed"
    assert rows["text.mpg"]["video_sha256"] == sha256_file(Path(results["text.mpg"]["video"]))
    # What cannot be read leaves no folder.
    assert {p.name for p in scored.iterdir() if p.is_dir()} == {"classic", "newer", LOCKS}


def test_originals_are_left_alone(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    before = contents(footage)
    # Even when results go beside them.
    copy = Path(shutil.copytree(footage, tmp_path / "copy"))
    score_videos(find_videos([copy]), copy, scorer, VideoSettings())
    after = contents(copy)
    assert {name: after[name] for name in before} == before


def test_a_done_video_is_kept_until_content_pair_or_settings_change(
    footage: Path, scorer: Scorer, tmp_path: Path
) -> None:
    video = Path(shutil.copy(footage / "newer.mp4", tmp_path / "run.mp4"))
    out = tmp_path / "out"
    begun: list[Path] = []

    def status(settings: VideoSettings | None = None, with_scorer: Scorer = scorer) -> str:
        (result,) = score_videos(
            [video], out, with_scorer, settings or VideoSettings(), on_start=lambda path, info: begun.append(path)
        )
        assert result.complete
        return result.status

    assert status() == "scored"
    first = contents(out / "run")
    assert status() == "kept"
    assert contents(out / "run") == first
    assert len(begun) == 1
    for change in ({"every_s": 0.25}, {"min_duration_s": 5.0}, {"operating_point": "recall_95"}):
        assert status(VideoSettings(**change)) == "scored"  # type: ignore[arg-type]  # one of the dicts above
    # A finding shorter than 5 s is dropped, and its picture goes with it.
    status(VideoSettings(min_duration_s=5.0))
    assert not (out / "run" / "peak_001.jpg").exists()
    assert status() == "scored"
    assert contents(out / "run") == first  # the same bytes as at first
    for lost in ("peak_001.jpg", "frames.parquet", "pacp/PACP_Conditions.csv"):
        (out / "run" / lost).unlink()
        assert status() == "scored"
        assert contents(out / "run") == first
    write_tiny_pair(tmp_path / "models", version="2.0.0")
    assert status(with_scorer=Scorer(load_pair(tmp_path / "models" / "tiny"), threads=1)) == "scored"
    status()
    shutil.copy(footage / "classic.mpg", video)
    assert status() == "scored"


def test_a_kill_before_the_end_is_no_done_video(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(video: Path, time_s: float) -> None:
        if time_s > 5:
            raise Killed

    with pytest.raises(Killed):
        score_videos([footage / "newer.mp4"], tmp_path, scorer, VideoSettings(), on_sample=kill)
    assert contents(tmp_path) == {}
    assert score_videos([footage / "newer.mp4"], tmp_path, scorer, VideoSettings())[0].status == "scored"


def test_a_recording_that_was_cut_off_is_scored_but_not_complete(scorer: Scorer, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", red_between(1, 3), seconds=12, codec="libx264", gop=25)
    cut = truncate(whole, tmp_path / "cut.mkv", share=0.6)
    (result,) = score_videos([cut], tmp_path / "out", scorer, VideoSettings())
    assert (result.status, result.complete, result.findings) == ("scored", False, 1)
    assert result.reason.startswith("not scored: 00:00:0")
    assert result.reason.endswith("to 00:00:12")
    (kept,) = score_videos([cut], tmp_path / "out", scorer, VideoSettings())
    assert (kept.status, kept.complete, kept.reason) == ("kept", False, result.reason)


def test_videos_of_one_name_get_folders_of_their_own(tmp_path: Path) -> None:
    def named(*videos: str) -> list[str]:
        folders = output_folders([tmp_path / video for video in videos], tmp_path / "out")
        return [str(folder.relative_to(tmp_path / "out")) for folder in folders]

    assert named("a/x.mpg", "y.mpg") == ["x", "y"]
    assert named("a/x.mpg", "a/x.mp4", "a/X.avi") == ["x.mpg", "x.mp4", "X.avi"]
    assert named("a/x.mpg", "b/x.mpg", "b/x.avi") == ["a-x.mpg", "b-x.mpg", "x.avi"]
    assert named("a/c/x.mpg", "b/c/x.mpg") == ["a-c-x.mpg", "b-c-x.mpg"]
    assert named("p/a-x.mpg", "p/b/x.mpg", "p/a/x.mpg") == ["a-x", "b-x.mpg", "a-x.mpg"]
    assert len(set(named("p/x.mpg", "q/x.mpg", "q/p-x.mpg.avi"))) == 3


def test_another_video_s_findings_are_never_overwritten(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    paths = {}
    for folder, source in (("monday", "newer.mp4"), ("tuesday", "classic.mpg")):
        (tmp_path / folder).mkdir()
        paths[folder] = Path(shutil.copy(footage / source, tmp_path / folder / "run.mpg"))

    def score(path: Path) -> VideoResult:
        return score_videos([path], out, scorer, VideoSettings())[0]

    assert [score(paths[day]).folder.name for day in paths] == ["run", "run-2"]
    assert [score(paths[day]).status for day in paths] == ["kept", "kept"]
    # A video that was moved is known by its content.
    moved = paths["monday"].rename(tmp_path / "run.mpg")
    assert (score(moved).folder.name, score(moved).status) == ("run", "kept")


def test_where_videos_are_looked_for(footage: Path, tmp_path: Path) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "nothing").mkdir()
    for name in ("a.MPG", "deep/b.wmv", "deep/deeper/c.ts", "deep/notes.txt", "odd.name"):
        (tmp_path / name).touch()
    assert [p.name for p in find_videos([tmp_path])] == ["a.MPG", "b.wmv", "c.ts"]
    assert [p.name for p in find_videos([tmp_path], recursive=False)] == ["a.MPG"]
    named = find_videos([tmp_path / "odd.name", tmp_path / "a.MPG", tmp_path])
    assert [p.name for p in named] == ["odd.name", "a.MPG", "b.wmv", "c.ts"]
    with pytest.raises(ConfigError, match="no videos in"):
        find_videos([tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="no such file"):
        find_videos([tmp_path / "absent"])


@pytest.mark.parametrize("setting", [{"every_s": 0}, {"every_s": 61}, {"min_duration_s": -1}, {"join_gap_s": -1}])
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="not possible"):
        VideoSettings(**setting)  # type: ignore[arg-type]  # one of the dicts above


def test_what_concerns_the_whole_batch_stops_it(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    video = [footage / "newer.mp4"]
    with pytest.raises(OperatingPointNotFoundError):
        score_videos(video, tmp_path / "out", scorer, VideoSettings(operating_point="recall_1000"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        score_videos(video, tmp_path / "file", scorer, VideoSettings())


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(cli, ["videos", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_says_what_it_found_and_exits_with_0(models: Path, footage: Path, tmp_path: Path) -> None:
    result = run(footage / "newer.mp4", "--out", tmp_path / "out", "--models", models)
    assert result.exit_code == 0
    assert "tiny 1.0.0 (fp32 on cpu), balanced: a finding opens at 0.500" in result.stdout
    (row,) = [line for line in result.stdout.splitlines() if "newer.mp4" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[:3] == ["newer.mp4", "scored", "1"]
    assert cells[4] == "00:00:10"
    assert result.stderr == ""


def test_the_exit_code_is_1_if_one_video_fails(
    models: Path, footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPEPROBE_MODELS", str(models))
    result = run(footage, "--out", tmp_path / "out", "--every", "1")
    assert result.exit_code == 1
    assert "4 of 6 videos could not be scored" in result.stderr
    assert "empty.mpg is empty" in result.stderr
    assert run(footage / "newer.mp4", "--out", tmp_path / "out", "--every", "1").exit_code == 0


def test_wrong_usage_starts_nothing(models: Path, footage: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(footage / "newer.mp4").exit_code == 2
    for arguments in ((tmp_path / "absent",), (footage, "--every", "0"), (footage, "--device", "abacus")):
        with pytest.raises(PipeprobeError):
            run(*arguments, "--out", out, "--models", models)
    assert not out.exists()
