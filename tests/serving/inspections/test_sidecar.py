"""Distances beside a video."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import VideoError
from serving.inspections.distance import MAX_GAP_S, NOWHERE
from serving.inspections.sidecar import place_between, read_sidecar, sidecar_of


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "run.mpg.distance.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_rows_are_read_and_lie_beside_the_video(tmp_path: Path) -> None:
    assert sidecar_of(tmp_path / "run.mpg") == written(tmp_path, "\ufefftime_s,distance_m\r\n0,0.5\r\n2,0.9\r\n")
    assert read_sidecar(sidecar_of(tmp_path / "run.mpg")) == [(0.0, 0.5), (2.0, 0.9)]


def test_between_rows_distance_is_even_and_elsewhere_unknown() -> None:
    rows = [(1.0, 0.5), (3.0, 0.9), (3.0 + 2 * MAX_GAP_S, 8.0)]
    places = [place_between(rows, time_s) for time_s in (0.9, 1.0, 1.5, 3.0, 3.5, 3.0 + 2 * MAX_GAP_S, 100.0)]
    assert [place.distance_m for place in places] == [None, 0.5, 0.6, 0.9, None, 8.0, None]
    assert places[0] == NOWHERE
    assert {(place.source, place.confidence) for place in places if place != NOWHERE} == {("sidecar", 1.0)}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "line 1: its first line must be time_s,distance_m"),
        ("0,1\n1,2\n", "line 1"),
        ("time_s,distance_m\n", "no rows"),
        ("time_s,distance_m\n0,1\n1,far\n", "line 3: two numbers"),
        ("time_s,distance_m\n0,1\n1,2,3\n", "line 3: two numbers"),
        ("time_s,distance_m\n0,nan\n", "line 2: two numbers"),
        ("time_s,distance_m\n0,1\n2,2\n2,3\n", "line 4: time 2 s does not come after 2 s"),
        (b"time_s,distance_m\n\xff\xfe,1\n", "not CSV in UTF-8"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str | bytes, why: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(VideoError, match=why) as raised:
        read_sidecar(path)
    assert str(path) in str(raised.value)


def test_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"run\.mpg\.distance\.csv cannot be read"):
        read_sidecar(sidecar_of(tmp_path / "run.mpg"))
