"""Pages and reviews of videos that were really scored, with the tiny pair, whose score rises with redness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.tiny_pair import write_tiny_pair
from support.video_files import red_between, write_h264, write_pal
from support.written_files import contents

from serving.durable import sha256_file
from serving.frames import resize_frame
from serving.inspections.review import match_reviews, write_dataset
from serving.inspections.review_file import read_review
from serving.inspections.videos import VideoSettings, find_videos, score_videos
from serving.pairs.pair import load_pair
from serving.report.data import video_data
from serving.report.write import write_reports
from serving.scorer import Scorer


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_pair(folder)
    return Scorer(load_pair(folder / "tiny"), threads=1)


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same inspection as a new rig and an old, interlaced one record it."""
    folder = tmp_path_factory.mktemp("footage")
    write_h264(folder / "newer.mp4", red_between(2.0, 4.0), seconds=8)
    write_pal(folder / "classic.mpg", red_between(2.0, 4.0), seconds=8, start_s=12)
    return folder


def test_pages_that_a_kill_left_missing_or_old_are_made_again(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    score_videos(find_videos([footage]), tmp_path, scorer, VideoSettings())
    before = contents(tmp_path)
    assert {"index.html", "newer/report.html", "classic/report.html"} <= set(before)
    (tmp_path / "newer" / "report.html").unlink()
    (tmp_path / "index.html").write_text("old")
    results = score_videos(find_videos([footage]), tmp_path, scorer, VideoSettings())
    assert [result.status for result in results] == ["kept", "kept"]
    pages = {name: data for name, data in contents(tmp_path).items() if name.endswith(".html")}
    assert pages == {name: before[name] for name in pages}
    # The command makes the same pages of the same files.
    for page in pages:
        (tmp_path / page).unlink()
    write_reports(tmp_path)
    assert {name: contents(tmp_path)[name] for name in pages} == pages


def test_the_manifest_follows_pages_that_are_made_again(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    score_videos([footage / "newer.mp4"], tmp_path, scorer, VideoSettings())
    manifest = (tmp_path / "manifest.json").read_bytes()
    page = tmp_path / "newer" / "report.html"
    assert json.loads(manifest)["outputs"]["newer/report.html"] == sha256_file(page)
    # As if an earlier release had made both.
    page.write_text("an older page")
    outputs = json.loads(manifest)["outputs"] | {"newer/report.html": sha256_file(page)}
    (tmp_path / "manifest.json").write_text(json.dumps(json.loads(manifest) | {"outputs": outputs}))
    write_reports(tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == manifest


def test_a_video_whose_files_were_damaged_is_scored_again(footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    score_videos(find_videos([footage]), tmp_path, scorer, VideoSettings())
    before = contents(tmp_path / "newer")
    (tmp_path / "newer" / "frames.parquet").write_bytes(b"PAR1 and then nothing")
    results = score_videos(find_videos([footage]), tmp_path, scorer, VideoSettings())
    assert {result.folder.name: result.status for result in results} == {"classic": "kept", "newer": "scored"}
    assert contents(tmp_path / "newer") == before


@pytest.mark.parametrize("name", ["newer.mp4", "classic.mpg"])
def test_a_review_labels_the_very_frames_that_were_scored(
    name: str, footage: Path, scorer: Scorer, tmp_path: Path
) -> None:
    score_videos([footage / name], tmp_path / "out", scorer, VideoSettings())
    folder = tmp_path / "out" / Path(name).stem
    document: dict[str, Any] = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    (found,) = document["findings"]
    decision = {
        "start_s": found["start_s"],
        "end_s": found["end_s"],
        "decision": "accepted",
        "code": "RO",
        "remark": "",
    }
    review = {
        "schema": "pipeprobe-review/1",
        "video": document["video"],
        "video_sha256": document["video_sha256"],
        "every_s": document["scoring"]["every_s"],
        "reviewer": "A. Reviewer",
        "findings": [decision],
    }
    (tmp_path / "review.json").write_text(json.dumps(review))
    written = write_dataset(tmp_path / "set", match_reviews([read_review(tmp_path / "review.json")], footage))
    assert written.defect == found["frames"]
    frames = video_data(folder, document)["frames"]
    score_at = {round(time_s * 1000): score for time_s, score in zip(frames["times_s"], frames["scores"], strict=True)}
    peaks = []
    for path in sorted((tmp_path / "set" / "train").iterdir()):
        milliseconds = int(path.stem.rpartition("_")[2])
        with Image.open(path) as image:
            frame = resize_frame(np.asarray(image), scorer.pair.manifest.image_size)
        assert scorer.score(frame[None]).score[0] == pytest.approx(score_at[milliseconds], abs=6e-5)  # pages round
        peaks.append(milliseconds)
    assert round(found["frame_pts_s"] * 1000) in peaks
