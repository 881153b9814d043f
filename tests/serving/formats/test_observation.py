from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from support.observations import BOX, FINDING, origin

from serving.formats import csv_rows, json_file
from serving.formats.observation import COLUMNS, Observation, clock_time, observe

ORIGIN = origin()


@pytest.fixture
def observation() -> Observation:
    return observe(FINDING, ORIGIN, "peak_001.jpg", box=BOX, clock=2)


def test_a_machine_s_row_claims_no_more_than_it_knows(observation: Observation) -> None:
    assert observation.review_state == "unreviewed"
    assert (observation.code, observation.char1, observation.char2) == ("", "", "")
    assert observation.distance_m is None
    assert observation.distance_confidence is None
    assert observation.distance_source == "none"
    assert (observation.clock_to, observation.quantity) == (None, None)
    assert observation.remark == (
        "UNREVIEWED machine finding with score 0.912 from 01:02:03 to 01:02:10; "
        "clock position ESTIMATED from where the evidence lies"
    )


def test_a_clock_position_is_marked_as_estimated_and_absent_where_there_is_none(observation: Observation) -> None:
    assert (observation.clock_from, observation.clock_source) == (2, "estimated")
    nowhere = observe(FINDING, ORIGIN, "peak_001.jpg", box=BOX)
    assert (nowhere.clock_from, nowhere.clock_source) == (None, "none")
    assert "clock" not in nowhere.remark


def test_csv_rows_read_back(observation: Observation, tmp_path: Path) -> None:
    csv_rows.write_observations(tmp_path / "findings.csv", [observation])
    with (tmp_path / "findings.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == COLUMNS
    assert row["video"] == ORIGIN.video
    assert row["video_time"] == "01:02:05"
    assert row["frame_pts_s"] == "3725.9"
    assert row["score"] == "0.912346"
    assert row["photo"] == "peak_001.jpg"
    assert (row["clock_from"], row["clock_source"]) == ("2", "estimated")
    box = {name: row[f"evidence_box_{name}"] for name in ("x", "y", "width", "height")}
    assert box == {"x": "540", "y": "0", "width": "180", "height": "144"}
    assert (row["evidence_box_picture_width"], row["evidence_box_picture_height"]) == ("720", "576")
    assert {name for name, value in row.items() if value == ""} == {
        *("distance_m", "code", "char1", "char2", "quantity", "clock_to"),
        *("continuous", "at_joint", "distance_confidence"),
    }


def test_no_findings_leave_the_header(tmp_path: Path) -> None:
    csv_rows.write_observations(tmp_path / "findings.csv", [])
    assert (tmp_path / "findings.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_the_json_document_holds_the_same(observation: Observation, tmp_path: Path) -> None:
    document = json_file.write_findings(tmp_path / "findings.json", {"video": ORIGIN.video}, [observation])
    assert json.loads((tmp_path / "findings.json").read_text()) == document
    assert document["schema"] == json_file.SCHEMA
    (finding,) = document["findings"]
    assert {name for name in finding if name != "evidence_box"} == {n for n in COLUMNS if "evidence_box" not in n}
    assert finding["distance_m"] is None
    assert finding["evidence_box"] == {
        "x": 540,
        "y": 0,
        "width": 180,
        "height": 144,
        "picture_width": 720,
        "picture_height": 576,
    }


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00:00"), (59.999, "00:00:59"), (3600, "01:00:00"), (360000, "100:00:00")]
)
def test_clock_time(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text
