from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.errors import ConfigError
from serving.inspections.matching import Interval
from serving.inspections.truth_files import read_truth


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_by_metre_with_a_video_that_holds_nothing(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "video,start_m,end_m,code\na.mpg,12.3,12.3,BAB\na.mpg,20,21,\nb.mpg,,,\n\n")
    known = read_truth(table)
    assert {name: video.axis for name, video in known.items()} == {"a.mpg": "distance", "b.mpg": "distance"}
    assert known["a.mpg"].spans == (Interval(start_s=12.3, end_s=12.3), Interval(start_s=20, end_s=21))
    assert known["b.mpg"].spans == ()
    assert known["a.mpg"].track is None


def test_a_table_by_time_may_lack_codes_and_begin_as_spreadsheets_write_it(tmp_path: Path) -> None:
    known = read_truth(write(tmp_path / "t.csv", "\ufeffvideo,start_s,end_s\n a.mpg , 1.5,2\n"))
    assert (known["a.mpg"].axis, known["a.mpg"].spans) == ("time", (Interval(start_s=1.5, end_s=2),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: its first line must be"),
        ("video,start,end,code\n", "line 1: its first line must be"),
        ("video,start_m,end_s,code\n", "line 1: its first line must be"),
        ("video,start_m,end_m,class\n", "line 1: its first line must be"),
        ("video,start_m,end_m,code\n", "it has no rows"),
        ("video,start_m,end_m,code\na.mpg,1,2\n", "line 2: it needs a video and 3 more fields"),
        ("video,start_m,end_m,code\na.mpg,1,2,BAB\n,1,2,BAB\n", "line 3: it needs a video"),
        ("video,start_m,end_m,code\na.mpg,2,1,BAB\n", "line 2: start and end must be two numbers"),
        ("video,start_m,end_m,code\na.mpg,2,,BAB\n", "line 2: start and end must be two numbers"),
        ("video,start_m,end_m,code\na.mpg,nan,nan,BAB\n", "line 2: start and end must be two numbers"),
    ],
)
def test_a_broken_table_is_named_with_the_line_and_what_belongs_there(tmp_path: Path, text: str, message: str) -> None:
    table = write(tmp_path / "t.csv", text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_truth(table)
    assert "t.csv" in str(caught.value)


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"video,start_m,end_m\n\xff\xfe,1,2\n")
    with pytest.raises(ConfigError, match="not CSV in UTF-8"):
        read_truth(tmp_path / "t.csv")


def simulated(video: str) -> str:
    return json.dumps(
        {"video": video, "findings": [{"code": "RB", "start_s": 1, "end_s": 2}], "track": [[0, 0], [0.1, 0.02]]}
    )


def test_truths_of_simulated_inspections_bring_their_track(tmp_path: Path) -> None:
    write(tmp_path / "a.truth.json", simulated("a.mpg"))
    known = read_truth(tmp_path)
    assert known["a.mpg"].spans == (Interval(start_s=1, end_s=2),)
    assert known["a.mpg"].track is not None
    assert known["a.mpg"].track.tolist() == [[0, 0], [0.1, 0.02]]


def test_folders_that_say_nothing_or_too_much(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="says nothing of any video"):
        read_truth(tmp_path)
    write(tmp_path / "a.truth.json", simulated("a.mpg"))
    write(tmp_path / "b.truth.json", simulated("a.mpg"))
    with pytest.raises(ConfigError, match=r"truths of two videos called a\.mpg"):
        read_truth(tmp_path)
    write(tmp_path / "b.truth.json", "{}")
    with pytest.raises(ConfigError, match=r"b\.truth\.json is not a truth"):
        read_truth(tmp_path)
