from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.toy_study import PAPER, ToyStudy, edit_json, write_json

from serving.errors import DataError
from training.report.results import read_study

NAME = "simclr-resnet18-p1-s0"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return ToyStudy(methods=PAPER[:2], baselines=(), proportions=(0.01, None), seeds=1).write(tmp_path / "runs")


def refused(runs: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_study(runs)
    return str(caught.value)


def test_reads_the_plan_and_what_there_is_of_it(tmp_path: Path) -> None:
    toy = ToyStudy(
        methods=PAPER,
        proportions=(0.01, 0.15, None),
        seeds=2,
        status={"byol-resnet18-p1-s1": "diverged"},
        lost=["dino-vit_tiny-all-s1"],
        begun=["mae-vit_tiny-p15-s0"],
    )
    study = read_study(toy.write(tmp_path / "runs"))
    assert len(study.planned) == 2 * 3 * 2 * 8
    assert len(study.results) == len(study.planned) - 2
    assert study.unfinished == ("mae-vit_tiny-p15-s0",)
    assert study.not_started == ("dino-vit_tiny-all-s1",)
    by_id = {result.id: result for result in study.results}
    assert by_id["byol-resnet18-p1-s1"].evaluations == {}
    assert by_id["masked_conv-resnet18-all-s0"].identity.defect_proportion is None
    assert by_id[NAME].evaluations["val_p1"].rules["chosen"]["threshold"] == 0.31
    # The plan's order, whatever the order on disk.
    order = [identity.id for identity in study.planned]
    assert [result.id for result in study.results] == [name for name in order if name in by_id]


def test_a_folder_that_is_no_study(tmp_path: Path) -> None:
    assert "holds no study.json" in refused(tmp_path)


def test_a_study_without_any_result(tmp_path: Path) -> None:
    runs = ToyStudy(methods=PAPER[:1], baselines=(), seeds=1).write(tmp_path / "runs")
    for path in runs.glob("*/result.json"):
        path.unlink()
    assert "holds no result yet: none of its 8 planned experiments" in refused(runs)


@pytest.mark.parametrize("content", ["", '{"schema_version": 1, "id"', "[1, 2]", '{"schema_version": NaN}', "\x00"])
def test_a_broken_result_is_named(small: Path, content: str) -> None:
    path = small / NAME / "result.json"
    path.write_text(content)
    assert str(path) in refused(small)


def test_bytes_that_are_no_text_are_named(small: Path) -> None:
    path = small / NAME / "result.json"
    path.write_bytes(b"\xff\xfe\x00")
    message = refused(small)
    assert str(path) in message
    assert "runs its experiment again" in message


def test_another_schema_version_is_named(small: Path) -> None:
    path = small / NAME / "result.json"
    edit_json(path, schema_version=2)
    message = refused(small)
    assert str(path) in message
    assert "schema version 2" in message
    edit_json(path, schema_version=1)
    edit_json(small / "study.json", schema_version=3)
    assert f"{small / 'study.json'} has schema version 3" in refused(small)


def test_a_result_that_the_plan_does_not_have(small: Path) -> None:
    stray = small / "simclr-resnet18-p15-s0"
    stray.mkdir()
    (stray / "result.json").write_text("{}")
    message = refused(small)
    assert str(stray / "result.json") in message
    assert "another study" in message


@pytest.mark.parametrize(("part", "name", "value"), [("", "optim", "paper"), ("pretraining", "epochs", 100)])
def test_a_result_with_other_settings(small: Path, part: str, name: str, value: object) -> None:
    path = small / NAME / "result.json"
    result = json.loads(path.read_text())
    (result[part] if part else result)[name] = value
    write_json(path, result)
    message = refused(small)
    assert str(path) in message
    assert "another study" in message
    assert f"{name} is {value!r}" in message


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"id": "byol-resnet18-p1-s0"}, "lies in the folder of"),
        ({"seed": 4}, "says seed 4"),
        ({"defect_proportion": 0.02}, "says defect_proportion 0.02"),
        ({"defect_proportion": None}, "says defect_proportion None"),
        ({"kind": "random"}, "says kind 'random'"),
        ({"kind": "guess"}, "not one of ssl"),
        ({"status": "running"}, "not one of finished"),
        ({"evaluations": {}}, "holds no evaluation"),
        ({"evaluations": {"val_p1": {"n": 3}}}, "lacks `evaluations.val_p1.published`"),
        ({"hardware": ...}, "lacks `hardware`"),
        ({"wall_time_s": "long"}, "`wall_time_s` is 'long'"),
        ({"wall_time_s": True}, "`wall_time_s` is True"),
        ({"label_free": {"rankme": "high"}}, "`label_free.rankme` is 'high'"),
    ],
)
def test_a_result_that_contradicts_the_schema(small: Path, changes: dict[str, object], what: str) -> None:
    path = small / NAME / "result.json"
    edit_json(path, **changes)
    message = refused(small)
    assert str(path) in message
    assert what in message


def test_a_metric_out_of_range(small: Path) -> None:
    path = small / NAME / "result.json"
    result = json.loads(path.read_text())
    result["evaluations"]["val_natural"]["chosen"]["f1"] = 1.2
    write_json(path, result)
    assert "`evaluations.val_natural.chosen.f1` is 1.2" in refused(small)


@pytest.mark.parametrize(
    ("planned", "what"),
    [(["simclr"], "no id of the form"), ([3], "no id"), ([NAME, NAME], "names an experiment twice")],
)
def test_a_plan_that_cannot_be(small: Path, planned: list[object], what: str) -> None:
    edit_json(small / "study.json", planned=planned)
    message = refused(small)
    assert str(small / "study.json") in message
    assert what in message
