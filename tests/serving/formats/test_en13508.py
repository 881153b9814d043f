"""The exchange text, read back by a reader that knows the format alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.en13508_reader import Exchange, Inspection, read_en13508
from support.observations import observations, origin

from serving.formats.en13508 import write_en13508
from serving.formats.observation import OWN_COLUMNS, Observation, Origin


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exchange")


def exchanged(folder: Path, of: Origin, rows: list[Observation]) -> tuple[Exchange, Inspection]:
    write_en13508(folder / "en13508.txt", of, rows)
    exchange = read_en13508(folder / "en13508.txt")
    (inspection,) = exchange.inspections
    return exchange, inspection


def test_a_machine_s_row_claims_no_more_than_it_knows(folder: Path) -> None:
    exchange, inspection = exchanged(folder, origin(), observations(origin()))
    assert dataclasses.replace(exchange, inspections=[]) == Exchange("ISO-8859-1", "en", ",", ".", '"', "2010", [])
    first, second = inspection.observations
    for row in (first, second):
        assert [row[code] for code in "IJABCDEHK"] == [""] * 9
        assert row["F"].startswith("UNREVIEWED machine finding")
        assert row["review_state"] == "unreviewed"
        assert row["distance_source"] == "none"
        assert row["video_sha256"] == "ab" * 32
    assert (first["G"], first["clock_source"]) == ("2", "estimated")
    assert "clock position ESTIMATED" in first["F"]
    assert (second["G"], second["clock_source"]) == ("", "none")
    assert "clock" not in second["F"]
    assert (first["N"], first["M"]) == ("01:02:05", "peak_001.jpg")
    assert tuple(first)[-len(OWN_COLUMNS) :] == OWN_COLUMNS


def test_numbers_have_the_declared_decimal_sign_and_no_exponent(folder: Path) -> None:
    known = dataclasses.replace(observations(origin())[0], distance_m=12.3, distance_confidence=0.875, quantity=20.0)
    exchange, inspection = exchanged(folder, origin(), [known, observations(origin())[1]])
    first, second = inspection.observations
    assert [exchange.number(first[code]) for code in ("I", "D", "distance_confidence")] == [12.3, 20.0, 0.875]
    assert exchange.number(first["score"]) == 0.912346
    assert second["score"] == "0.000001"


def test_the_header_says_what_was_done_and_that_it_is_unreviewed(folder: Path) -> None:
    _, inspection = exchanged(folder, origin(unscored="00:00:07 to 00:00:12"), observations(origin()))
    assert list(inspection.header) == ["AAA", "ABA", "ABS", "ADE"]
    assert inspection.header["AAA"] == ""
    assert inspection.header["ABS"] == 'run "7", north.mpg'
    assert inspection.header["ADE"] == (
        "2 UNREVIEWED machine findings of pair tiny 1.0.0 at recall_95 (threshold 0.25); "
        f"video SHA-256 {'ab' * 32}; not scored: 00:00:07 to 00:00:12"
    )


def test_no_findings_are_an_inspection_without_rows(folder: Path) -> None:
    _, inspection = exchanged(folder, origin(), [])
    assert inspection.observations == []
    assert inspection.header["ADE"].startswith("0 UNREVIEWED machine findings")
    assert "ab" * 32 in inspection.header["ADE"]


@pytest.mark.parametrize(
    ("name", "shown", "encoding"),
    [
        ("Straße 12.mpg", "Straße 12.mpg", "ISO-8859-1"),
        ("Łódź, 下水道.mpg", "Łódź, 下水道.mpg", "UTF-8"),
        ("#Z", "#Z", "ISO-8859-1"),
        ("a\r\nb\x85c\u2028d.mpg", "a  b c d.mpg", "ISO-8859-1"),
        ("bytes \udcff.mpg", "bytes \\udcff.mpg", "ISO-8859-1"),
        (' "', ' "', "ISO-8859-1"),
    ],
)
def test_names_survive_in_the_encoding_that_is_declared(name: str, shown: str, encoding: str, folder: Path) -> None:
    exchange, inspection = exchanged(folder, origin(name), observations(origin(name)))
    assert inspection.header["ABS"] == shown
    assert exchange.encoding == encoding
    assert len(inspection.observations) == 2


@given(st.text(max_size=20), st.text(max_size=20))
@example(",", '"')
def test_any_text_reads_back_in_a_line_of_its_own(folder: Path, name: str, remark: str) -> None:
    rows = [dataclasses.replace(each, remark=remark, code=name) for each in observations(origin(name))]
    _, inspection = exchanged(folder, origin(name), rows)
    for row in inspection.observations:
        assert len(row["F"]) == len(remark)
        assert row["A"] == inspection.header["ABS"]
    if name.isprintable():
        assert inspection.header["ABS"] == name


@pytest.mark.parametrize("row", [0, 1, 5, 6, 7, 8, -1])
def test_the_reader_would_notice_a_missing_line(row: int, tmp_path: Path) -> None:
    path = tmp_path / "en13508.txt"
    write_en13508(path, origin(), observations(origin()))
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[row]
    path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError):  # noqa: PT011  # which complaint it is depends on the line
        read_en13508(path)
