"""Stages are done once, and again only when they have to be."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from serving.errors import ConfigError, DataError
from training.retrain.stages import Stages, full_disk_explained, single_user


class Diary:
    """What the stages said, and how often the work was done."""

    def __init__(self, out: Path) -> None:
        self.lines: list[str] = []
        self.worked = 0
        self.stages = Stages(
            out=out,
            begun=lambda name, reason: self.lines.append(f"{name} begun {reason}".strip()),
            done=lambda name, kept, seconds: self.lines.append(f"{name} {'kept' if kept else 'done'}"),
        )

    def run(self, value: int, amiss: str | None = None) -> dict[str, object]:
        def work() -> dict[str, object]:
            self.worked += 1
            return {"doubled": 2 * value, "pair": (1, 2)}

        return self.stages.run("double", inputs={"value": value}, work=work, amiss=lambda result: amiss)


def test_a_stage_is_kept_while_its_inputs_and_its_output_stand(tmp_path: Path) -> None:
    diary = Diary(tmp_path)
    first = diary.run(3)
    assert first == {"doubled": 6, "pair": [1, 2]}
    assert diary.run(3) == first
    assert Diary(tmp_path).run(3) == first
    assert diary.worked == 1
    diary.run(4)
    diary.run(4, amiss="it was deleted")
    assert diary.worked == 3
    assert diary.lines == [
        "double begun",
        "double done",
        "double kept",
        "double begun what it is made of has changed",
        "double done",
        "double begun it was deleted",
        "double done",
    ]


def test_work_that_fails_leaves_no_record(tmp_path: Path) -> None:
    def fail() -> dict[str, object]:
        raise DataError("no")

    diary = Diary(tmp_path)
    with pytest.raises(DataError):
        diary.stages.run("double", inputs={"value": 3}, work=fail)
    assert not list(tmp_path.rglob("*.json"))
    diary.run(3)
    assert diary.worked == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"inputs": {"value": 3}}'])
def test_a_damaged_record_counts_as_none(content: str, tmp_path: Path) -> None:
    diary = Diary(tmp_path)
    diary.run(3)
    record = tmp_path / "stages" / "double.json"
    record.write_text(content)
    diary.run(3)
    assert diary.worked == 2
    assert json.loads(record.read_text())["result"]["doubled"] == 6


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        single_user(tmp_path),
        pytest.raises(ConfigError, match="another retraining is at work"),
        single_user(tmp_path),
    ):
        pass
    with single_user(tmp_path):
        pass


def test_a_full_disk_is_explained_and_other_errors_are_not_touched(tmp_path: Path) -> None:
    message = r"no space left for /x/frames.*same command again.*--out on another disk"
    with pytest.raises(DataError, match=message), full_disk_explained(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", "/x/frames")
    with pytest.raises(PermissionError), full_disk_explained(tmp_path):
        raise PermissionError(errno.EACCES, "denied")
