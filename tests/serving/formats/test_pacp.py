"""The tables of PACP 7, by what a database would check: keys, references, types, and what must not be made up."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from pathlib import Path

import pytest
from support.observations import observations, origin

from serving.formats.observation import OWN_COLUMNS, Observation, Origin
from serving.formats.pacp import inspection_id_of, write_pacp

NAMES = ("PACP_Inspections", "PACP_Conditions", "PACP_Media_Inspections", "PACP_Media_Conditions")

Tables = tuple[list[dict[str, str]], ...]


def tables(folder: Path, of: Origin, rows: list[Observation]) -> Tables:
    write_pacp(folder / "pacp", of, rows)
    assert sorted(path.stem for path in (folder / "pacp").iterdir()) == sorted(NAMES)
    read = []
    for name in NAMES:
        with (folder / "pacp" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file, strict=True))
        assert all(None not in line and None not in line.values() for line in lines)
        read.append(lines)
    return tuple(read)


def test_keys_are_numbers_and_references_lead_somewhere(tmp_path: Path) -> None:
    (inspection,), conditions, (video,), pictures = tables(tmp_path, origin(), observations(origin()))
    assert 1 <= int(inspection["InspectionID"]) < 2**31
    assert {row["InspectionID"] for row in (*conditions, video)} == {inspection["InspectionID"]}
    assert [int(row["ConditionID"]) for row in conditions] == [1, 2]
    assert [row["ConditionID"] for row in pictures] == ["1", "2"]
    for row in pictures:
        assert (tmp_path / "pacp" / row["Image_Path"]).resolve() == tmp_path / row["Image_Reference"]
    assert video["Video_Name"] == inspection["Media_Label"] == 'run "7", north.mpg'


def test_nothing_is_made_up_and_all_is_marked_unreviewed(tmp_path: Path) -> None:
    (inspection,), conditions, (video,), pictures = tables(tmp_path, origin(), observations(origin()))
    unknown = ("Surveyed_By", "Certificate_Number", "Inspection_Date", "Pipe_Segment_Reference", "Length_Surveyed")
    assert [inspection[name] for name in unknown] == [""] * 5
    assert inspection["IsImperial"] == "0"
    assert inspection["Additional_Info"].startswith("2 UNREVIEWED machine findings")
    for row in conditions:
        assert [row[name] for name in ("Distance", "PACP_Code", "Continuous", "Clock_To", "Joint")] == [""] * 5
        assert row["Remarks"].startswith("UNREVIEWED machine finding")
        assert row["review_state"] == "unreviewed"
        assert tuple(row)[-len(OWN_COLUMNS) :] == OWN_COLUMNS
    assert [row["Clock_At_From"] for row in conditions] == ["2", ""]
    assert [row["clock_source"] for row in conditions] == ["estimated", "none"]
    assert "ESTIMATED" in conditions[0]["Remarks"]
    assert (conditions[0]["VCR_Time"], conditions[0]["Counter"]) == ("01:02:05", "3725")
    assert {row["video_sha256"] for row in (inspection, *conditions, video, *pictures)} == {"ab" * 32}


def test_a_known_distance_is_in_metres(tmp_path: Path) -> None:
    known = dataclasses.replace(observations(origin())[0], distance_m=12.34, distance_source="osd")
    _, (condition,), _, _ = tables(tmp_path, origin(), [known])
    assert (condition["Distance"], condition["distance_source"]) == ("12.34", "osd")


def test_no_findings_are_an_inspection_without_conditions(tmp_path: Path) -> None:
    (inspection,), conditions, (video,), pictures = tables(tmp_path, origin(), [])
    assert conditions == pictures == []
    assert inspection["video_sha256"] == video["video_sha256"] == "ab" * 32


@pytest.mark.parametrize("name", ["a,b.mpg", 'say "x".mpg', "two\nlines\r.mpg", "下水道 Łódź.mpg"])
def test_names_are_kept_as_they_are(name: str, tmp_path: Path) -> None:
    _, _, (video,), _ = tables(tmp_path, origin(name), [])
    assert video["Video_Name"] == name


def test_inspections_are_told_apart_and_known_again() -> None:
    hashes = [hashlib.sha256(bytes([i])).hexdigest() for i in range(200)]
    ids = [inspection_id_of(each) for each in hashes]
    assert len(set(ids)) == 200
    assert ids == [inspection_id_of(each) for each in hashes]
    assert inspection_id_of("0" * 64) == 1
    assert inspection_id_of(f"{2**31 - 2:064x}") == 2**31 - 1
