"""One video's folder, from real files with the tiny pair: what is in it, whatever the video, and whatever kills."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.en13508_reader import read_en13508
from support.video_files import red_between, write_h264, write_video
from support.written_files import contents, read_csv, read_json

from serving.durable import sha256_file
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import score_videos
from serving.scorer import Scorer


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds, of which the pair finds two."""
    return write_h264(tmp_path_factory.mktemp("footage") / "run.mp4", red_between(1, 3), seconds=4)


@pytest.fixture(scope="module")
def folder(video: Path, scorer: Scorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (result,) = score_videos([video], tmp_path_factory.mktemp("out"), scorer, VideoSettings())
    return result.folder


def test_the_video_s_hash_is_in_every_deliverable(video: Path, folder: Path) -> None:
    sha256 = sha256_file(video).encode()
    for path, data in contents(folder).items():
        assert sha256 in data or path.endswith(".jpg"), path


def test_all_forms_tell_of_the_same_finding(folder: Path) -> None:
    (finding,) = read_json(folder / "findings.json")["findings"]
    (row,) = read_csv(folder / "findings.csv")
    (inspection,) = read_en13508(folder / "en13508.txt").inspections
    (exchanged,) = inspection.observations
    (condition,) = read_csv(folder / "pacp" / "PACP_Conditions.csv")
    for other in (row, exchanged, condition):
        assert other["review_state"] == finding["review_state"] == "unreviewed"
        assert float(other["score"]) == finding["score"]
        assert float(other["frame_pts_s"]) == finding["frame_pts_s"]
    assert exchanged["N"] == condition["VCR_Time"] == row["video_time"] == finding["video_time"]
    assert exchanged["F"] == condition["Remarks"] == row["remark"] == finding["remark"]
    assert inspection.header["ABS"] == "run.mp4"


def red_corner(time_s: float) -> NDArray[np.uint8]:
    """Grey, with the upper left quarter red from 2 s to 4 s."""
    picture = np.full((128, 160, 3), 110, np.uint8)
    if 2 <= time_s < 4:
        picture[:64, :80] = 230, 20, 20
    return picture


# Upright, the quarter is at 40, 32 of 160 x 128: 40 pixels left of the centre and 32 above it, 51 degrees: 10.3 h.
# Turned by 90 degrees counterclockwise, it is at 32, 120 of 128 x 160: 32 left and 40 below, 141 degrees: 7.3 h.
@pytest.mark.parametrize(
    ("rotation", "box", "clock"), [(0, (0, 0, 80, 64, 160, 128), 10), (90, (0, 80, 64, 80, 128, 160), 7)]
)
def test_a_finding_says_where_on_the_picture_it_is(
    rotation: int, box: tuple[int, ...], clock: int, scorer: Scorer, tmp_path: Path
) -> None:
    cornered = write_video(tmp_path / "run.mp4", red_corner, seconds=6, codec="libx264", rotation=rotation)
    score_videos([cornered], tmp_path / "out", scorer, VideoSettings(operating_point="recall_99"))
    (finding,) = read_json(tmp_path / "out" / "run" / "findings.json")["findings"]
    assert tuple(finding["evidence_box"].values()) == box
    assert (finding["clock_from"], finding["clock_to"], finding["clock_source"]) == (clock, None, "estimated")


def test_names_that_are_awkward_in_files_of_rows(video: Path, scorer: Scorer, tmp_path: Path) -> None:
    names = ('a, b; "c".mp4', "two\nlines.mp4", "下水道 №5.mp4", "#Z.mp4", os.fsdecode(b"no text \xff.mp4"))
    videos = [Path(shutil.copy(video, tmp_path / name)) for name in names]
    first = score_videos(videos, tmp_path / "out", scorer, VideoSettings(every_s=1))
    again = score_videos(videos, tmp_path / "out", scorer, VideoSettings(every_s=1))
    assert [result.status for result in (*first, *again)] == ["scored"] * 5 + ["kept"] * 5
    for result, name in zip(first, names, strict=True):
        (inspection,) = read_en13508(result.folder / "en13508.txt").inspections
        shown = name.encode(errors="backslashreplace").decode()
        assert inspection.header["ABS"] == shown.replace("\n", " ")
        assert read_csv(result.folder / "findings.csv")[0]["video"] == shown
        (media,) = read_csv(result.folder / "pacp" / "PACP_Media_Inspections.csv")
        assert media["Video_Name"] == shown
        assert read_json(result.folder / "findings.json")["video"] == name


def test_a_video_without_findings_has_all_deliverables(scorer: Scorer, tmp_path: Path) -> None:
    clean = write_h264(tmp_path / "clean.mp4", red_between(9, 9), seconds=3)
    (result,) = score_videos([clean], tmp_path / "out", scorer, VideoSettings())
    assert (result.findings, result.complete) == (0, True)
    (inspection,) = read_en13508(result.folder / "en13508.txt").inspections
    assert inspection.observations == []
    assert inspection.header["ADE"].startswith("0 UNREVIEWED")
    assert result.video_sha256 in inspection.header["ADE"]
    assert read_csv(result.folder / "pacp" / "PACP_Conditions.csv") == []
    assert read_csv(result.folder / "findings.csv") == []


class Killed(BaseException):
    """Nothing catches it."""


def test_a_kill_at_any_write_leaves_what_a_rerun_makes_whole(
    video: Path, folder: Path, scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended before each of the files is in place, in a new folder and in one whose results are replaced."""
    expected, sync = contents(folder.parent), os.fsync
    n_files = len(expected)
    for earlier in (False, True):
        for n_writes in range(n_files):
            out = tmp_path / f"{earlier}-{n_writes}"
            if earlier:
                score_videos([video], out, scorer, VideoSettings(every_s=1))
            left = n_writes

            def kill(descriptor: int) -> None:
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                sync(descriptor)

            with monkeypatch.context() as context:
                context.setattr(os, "fsync", kill)
                with pytest.raises(Killed):
                    score_videos([video], out, scorer, VideoSettings())
            complete = (out / "run" / "findings.json").exists()
            assert not (out / "manifest.json").exists()
            if complete:
                assert without_page(out / "run") == without_page(folder)
            (result,) = score_videos([video], out, scorer, VideoSettings())
            assert result.status == ("kept" if complete else "scored")
            assert without_timing(out) == without_timing(folder.parent)


def without_page(folder: Path) -> dict[str, bytes]:
    """All but what is made from the rest, by the next call if need be."""
    return {name: data for name, data in contents(folder).items() if name != "report.html"}


def without_timing(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(out).items() if name != "timing.json"}


def test_what_a_killed_process_was_writing_is_removed_once_it_is_old(
    video: Path, folder: Path, scorer: Scorer, tmp_path: Path
) -> None:
    pacp = tmp_path / "out" / "run" / "pacp"
    pacp.mkdir(parents=True)
    for name, mtime_s in ((".old.csv.0a1b.partial", 1.0), (".new.csv.0a1b.partial", None)):
        (pacp / name).touch()
        if mtime_s is not None:
            os.utime(pacp / name, (mtime_s, mtime_s))
    score_videos([video], tmp_path / "out", scorer, VideoSettings())
    # Another process may be about to finish the newer one.
    assert set(contents(pacp)) - set(contents(folder / "pacp")) == {".new.csv.0a1b.partial"}
