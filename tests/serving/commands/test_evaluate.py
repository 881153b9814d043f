"""`pipeprobe evaluate` on folders as `pipeprobe videos` leaves them, and on one that it really wrote."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from support.browser import chromium
from support.reports import made_up_frames, write_scored
from support.tiny_pair import write_tiny_pair
from support.video_files import red_between, write_h264
from support.written_files import contents

from serving.commands.evaluate import command
from serving.errors import PipeprobeError
from serving.formats.frames_parquet import write_frames
from serving.inspections.videos import VideoSettings, score_videos
from serving.pairs.pair import load_pair
from serving.scorer import Scorer

SVG = "{http://www.w3.org/2000/svg}"


def scored(out: Path) -> Path:
    """Two videos of 60 s at 0.1 m/s. In the first findings at 1 to 1.4 m and 4 to 4.1 m, in the second none."""
    for name, intervals in (("a", ((10.0, 14.0), (40.0, 41.0))), ("b", ())):
        document = write_scored(out / name, video=f"{name}.mp4", intervals=intervals)
        times_s = [0.5 * i for i in range(120)]
        inside = [any(start <= t < end for start, end in intervals) for t in times_s]
        frames = made_up_frames(times_s, [0.9 if i else 0.1 for i in inside], [round(0.1 * t, 3) for t in times_s])
        write_frames(out / name / "frames.parquet", frames, {})
        assert len(document["findings"]) == len(intervals)
    return out


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(command, [*map(str, arguments)])
    if isinstance(result.exception, PipeprobeError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def evaluation(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return document


TRUTH = "video,start_m,end_m,code\na.mp4,1.6,1.6,BAB\na.mp4,2.5,2.5,BAC\nb.mp4,,,\n"


def test_a_batch_against_a_table_by_metre(tmp_path: Path) -> None:
    out, truth = scored(tmp_path / "out"), tmp_path / "truth.csv"
    truth.write_text(TRUTH)
    result = run(out, truth, "--mark", "loose=0.05")
    assert "events found" in result.output
    document = evaluation(out / "evaluation")
    # The finding at 1 to 1.4 m is 0.2 m from one event, nothing is near the other, and the one at 4 m shows nothing.
    assert (document["inspections"], document["events"], document["metres"]) == (2, 2, pytest.approx(11.9))
    chosen = document["chosen"]
    assert (chosen["found"], chosen["false_findings"], chosen["recall"]["value"]) == (1, 1, 0.5)
    assert chosen["false_per_100m"]["value"] == pytest.approx(100 / 11.9)
    # 0.5 to 1.9 m and 3.5 to 4.6 m.
    assert chosen["watched_share"]["value"] == pytest.approx(2.5 / 11.9)
    assert document["marks"][0]["watched_share"]["value"] == pytest.approx(1)
    assert [each["label"] for each in document["to_catch"]] == ["95 % (all 2)", "99 % (all 2)"]
    assert document["distances_from"] == {"truth": 0, "scored": 2}
    rows = list(csv.DictReader((out / "evaluation/curve.csv").read_text().splitlines()))
    assert [float(row["recall"]) for row in rows] == sorted((float(row["recall"]) for row in rows), reverse=True)
    (at_chosen,) = (row for row in rows if float(row["threshold"]) == 0.6)
    assert (at_chosen["found"], at_chosen["findings"], at_chosen["false_findings"]) == ("1", "2", "1")
    assert "| balanced | 0.600 | 50 %" in (out / "evaluation/evaluation.md").read_text()


def test_the_same_makes_the_same_bytes(tmp_path: Path) -> None:
    out, truth = scored(tmp_path / "out"), tmp_path / "truth.csv"
    truth.write_text(TRUTH)
    for to in ("first", "second"):
        run(out, truth, "--to", tmp_path / to)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_the_picture_is_drawn_with_all_of_its_text_inside(tmp_path: Path) -> None:
    out, truth = scored(tmp_path / "out"), tmp_path / "truth.csv"
    truth.write_text(TRUTH)
    run(out, truth, "--mark", "a<b&c=0.95")
    svg = out / "evaluation/curve.svg"
    texts = [each.text or "" for each in ElementTree.parse(svg).iter(f"{SVG}text")]
    assert "a<b&c" in texts
    assert "balanced, opens at 0.600" in texts
    assert any(text.startswith("to catch 95 % (all 2): watch") for text in texts)
    with chromium() as browser:
        page = browser.new_page()
        page.goto(svg.as_uri())
        boxes = page.evaluate("[...document.querySelectorAll('text')].map(t => t.getBoundingClientRect().toJSON())")
        width, height = page.evaluate("(r => [r.width, r.height])(document.documentElement.getBoundingClientRect())")
    assert len(boxes) == len(texts)
    for box in boxes:
        assert box["left"] >= 0
        assert box["right"] <= width
        assert box["top"] >= 0
        assert box["bottom"] <= height


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    out, truth = scored(tmp_path / "out"), tmp_path / "truth.csv"
    truth.write_text("video,start_s,end_s\na.mp4,10,11\nc.mp4,1,2\n")
    result = run(out, truth)
    assert "warning: b.mp4 is left out: TRUTH says nothing of it" in result.output
    assert "warning: c.mp4 is left out: OUT does not have it" in result.output
    document = evaluation(out / "evaluation")
    assert document["left_out"] == {"not_known": ["b.mp4"], "not_scored": ["c.mp4"]}
    assert document["inspections"] == 1


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ("video,start_m,end_m\nz.mp4,1,2\n", "none is among those that are known"),
        ("video,start_m,end_m\na.mp4,,\n", "nothing is known to be in any"),
    ],
)
def test_a_truth_of_nothing_that_was_scored(tmp_path: Path, truth: str, message: str) -> None:
    out = scored(tmp_path / "out")
    (tmp_path / "truth.csv").write_text(truth)
    with pytest.raises(PipeprobeError, match=message):
        run(out, tmp_path / "truth.csv")


def test_without_distances_there_are_no_metres(tmp_path: Path) -> None:
    write_scored(tmp_path / "out/a", video="a.mp4")
    (tmp_path / "truth.csv").write_text("video,start_s,end_s\na.mp4,10,11\n")
    with pytest.raises(PipeprobeError, match=r"distance is known of 0 % .* put a\.mp4\.distance\.csv beside the video"):
        run(tmp_path / "out", tmp_path / "truth.csv")


def test_batches_scored_differently_are_not_mixed(tmp_path: Path) -> None:
    out = scored(tmp_path / "out")
    findings = out / "b/findings.json"
    findings.write_text(findings.read_text().replace('"enter": 0.6', '"enter": 0.7'))
    (tmp_path / "truth.csv").write_text(TRUTH)
    with pytest.raises(PipeprobeError, match="scored with different pairs or settings"):
        run(out, tmp_path / "truth.csv")


def test_bad_options_say_what_belongs_there(tmp_path: Path) -> None:
    out, truth = scored(tmp_path / "out"), tmp_path / "truth.csv"
    truth.write_text(TRUTH)
    for mark in ("0.5", "x=2", "x=nan", "=0.5"):
        result = CliRunner().invoke(command, [str(out), str(truth), "--mark", mark])
        assert result.exit_code == 2
        assert "NAME=THRESHOLD belongs there" in result.output
    with pytest.raises(PipeprobeError, match="must be 0 or more"):
        run(out, truth, "--margin-m", "-1")


def test_the_chosen_point_is_what_the_batch_scorer_found(tmp_path: Path) -> None:
    """A real video, really scored: the sweep at the operating point has the findings of findings.json."""
    write_tiny_pair(tmp_path / "models")
    write_h264(tmp_path / "run.mp4", red_between(2.0, 4.0), seconds=8)
    (tmp_path / "run.mp4.distance.csv").write_text("time_s,distance_m\n0,0\n8,1.6\n")
    scorer = Scorer(load_pair(tmp_path / "models/tiny"), threads=1)
    (result,) = score_videos([tmp_path / "run.mp4"], tmp_path / "out", scorer, VideoSettings())
    (tmp_path / "truth.csv").write_text("video,start_s,end_s\nrun.mp4,2,4\n")
    run(tmp_path / "out", tmp_path / "truth.csv", "--margin-m", "0")
    chosen = evaluation(tmp_path / "out/evaluation")["chosen"]
    assert result.findings == 1
    assert (chosen["found"], chosen["false_findings"]) == (1, 0)
    (finding,) = json.loads((result.folder / "findings.json").read_text())["findings"]
    flagged_m = 0.2 * (finding["end_s"] - finding["start_s"])
    metres = evaluation(tmp_path / "out/evaluation")["metres"]
    assert chosen["flagged_share"] * metres == pytest.approx(flagged_m, abs=0.01)
