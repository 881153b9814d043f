from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from serving.findings import Finding
from serving.formats import csv_rows, json_file
from serving.formats.observation import COLUMNS, Observation, Origin, clock_time, observe

FINDING = Finding(start_s=3723.4, end_s=3730, peak_s=3725.9, peak_score=0.91234567, mean_score=0.8, frames=13)
ORIGIN = Origin(
    video='run "7", north.mpg',
    video_sha256="ab" * 32,
    operating_point="recall_95",
    threshold=0.25,
    pair="tiny",
    pair_version="1.0.0",
)


@pytest.fixture
def observation() -> Observation:
    return observe(FINDING, ORIGIN, "peak_001.jpg")


def test_a_machine_s_row_claims_no_more_than_it_knows(observation: Observation) -> None:
    assert observation.review_state == "unreviewed"
    assert (observation.code, observation.char1, observation.char2) == ("", "", "")
    assert observation.distance_m is None
    assert observation.distance_confidence is None
    assert observation.distance_source == "none"
    assert (observation.clock_from, observation.clock_to, observation.quantity) == (None, None, None)


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
    assert {name for name, value in row.items() if value == ""} == {
        *("distance_m", "code", "char1", "char2", "quantity", "clock_from", "clock_to"),
        *("continuous", "at_joint", "remark", "distance_confidence"),
    }


def test_no_findings_leave_the_header(tmp_path: Path) -> None:
    csv_rows.write_observations(tmp_path / "findings.csv", [])
    assert (tmp_path / "findings.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_the_json_document_holds_the_same(observation: Observation, tmp_path: Path) -> None:
    document = json_file.write_findings(tmp_path / "findings.json", {"video": ORIGIN.video}, [observation])
    assert json.loads((tmp_path / "findings.json").read_text()) == document
    assert document["schema"] == json_file.SCHEMA
    (finding,) = document["findings"]
    assert tuple(finding) == COLUMNS
    assert finding["distance_m"] is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00:00"), (59.999, "00:00:59"), (3600, "01:00:00"), (360000, "100:00:00")]
)
def test_clock_time(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text
