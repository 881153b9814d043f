"""`pipeprobe-train sweep study`: plans before it works, works once, and refuses what would mix two studies."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from support.tiny_study import SIZE, register_tiny, write_packs

from serving.errors import ConfigError, DataError
from training import runs
from training.commands import sweep as module
from training.commands.sweep import command
from training.features import encoder_digest
from training.study.experiment import RESULT
from training.study.plan import StudySettings
from training.study.study_folder import STUDY
from training.study.sweep import SweepOutcome

SMALL = (
    *("--methods", "simclr", "--encoders", "tiny", "--proportions", "0.15", "--seeds", "1", "--epochs", "1"),
    *("--batch-size", "16", "--device", "cpu"),
)
PLANNED = ["random-tiny-p15-s0", "simclr-tiny-p15-s0", "supervised-tiny-p15-s0", "finetuned_simclr-tiny-p15-s0"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    register_tiny(monkeypatch.setitem)
    monkeypatch.setenv("COLUMNS", "200")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packs(tmp_path_factory.mktemp("packs"), train=72, val=24, test=16)


def invoke(packs: Path, study: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["study", "--data", str(packs), "--out", str(study), *SMALL, *arguments])


def said(packs: Path, study: Path, *arguments: str) -> str:
    result = invoke(packs, study, *arguments)
    if result.exception is not None:
        raise result.exception
    return result.output


def results(study: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in study.glob(f"*/{RESULT}")}


def written(study: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in study.glob(f"*/{RESULT}")}


def test_a_study_is_planned_then_run_then_done(packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pipeprobe-train", "sweep", "study", "--data", "my packs"])
    planned = said(packs, tmp_path, "--plan")
    assert "4 experiments, 4 to run, about 0.0 h in all on this machine" in planned
    rows = [line.split("│") for line in planned.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows] == PLANNED
    assert [row[2].strip() for row in rows] == ["random", "ssl", "supervised", "finetuned"]
    # Overhead alone is five seconds.
    assert all(int(row[3].removesuffix(" s ")) >= 5 for row in rows)
    assert results(tmp_path) == {}

    ran = said(packs, tmp_path, "--threads", "1")
    # The table comes before the first of them.
    assert ran.index("4 experiments, 4 to run") < ran.index("[1/4] random-tiny-p15-s0: about 5 s")
    assert f"4 experiments finished; results in {tmp_path}" in ran
    found = results(tmp_path)
    assert set(found) == set(PLANNED)
    assert {result["command"] for result in found.values()} == {
        shlex.join(["pipeprobe-train", "sweep", "study", "--data", "my packs"])
    }

    before = written(tmp_path)
    again = said(packs, tmp_path)
    assert "4 experiments, 0 to run" in again
    assert "0 experiments finished" in again
    assert [line.split("│")[4].strip() for line in again.splitlines() if line.startswith("│")] == ["done"] * 4
    assert written(tmp_path) == before


def test_nothing_is_begun_that_would_not_end(packs: Path, tmp_path: Path) -> None:
    text = said(packs, tmp_path, "--max-minutes", "0.01")
    assert "4 left for want of time: the same command goes on with them" in text
    assert results(tmp_path) == {}


def test_another_study_is_refused_in_the_folder_of_one(packs: Path, tmp_path: Path) -> None:
    said(packs, tmp_path / "study", "--plan")
    before = (tmp_path / "study" / STUDY).read_bytes()
    with pytest.raises(ConfigError, match=r"is a study with other settings \(epochs: 1 there, 2 asked\)"):
        said(packs, tmp_path / "study", "--epochs", "2")
    other = write_packs(tmp_path / "other", train=32, val=24, test=16)
    with pytest.raises(ConfigError, match=r"is a study with other data \(train: .*'frames': 72.*'frames': 32"):
        said(other, tmp_path / "study")
    assert (tmp_path / "study" / STUDY).read_bytes() == before


def test_missing_packs_are_named_with_the_command_that_makes_them(tmp_path: Path) -> None:
    (tmp_path / "packs").mkdir()
    with pytest.raises(DataError, match=r"lacks train, val: make them with `pipeprobe-train pack DATA --split t"):
        said(tmp_path / "packs", tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_failures_end_the_command_after_everything_else_was_run(packs: Path, tmp_path: Path) -> None:
    result = invoke(packs, tmp_path, "--proportions", "0.01,0.15", "--baselines", "random")
    assert isinstance(result.exception, ConfigError)
    assert "2 experiments failed, the others are not affected. random-tiny-p1-s0: a defect proportion" in str(
        result.exception
    )
    assert set(results(tmp_path)) == {"random-tiny-p15-s0", "simclr-tiny-p15-s0"}
    assert "2 experiments finished" in result.output


def test_initial_encoders_add_the_transferred_baseline(packs: Path, tmp_path: Path) -> None:
    encoder = runs.random_encoder("tiny", SIZE, 5)
    runs.save_encoder(tmp_path / "run", encoder)
    (tmp_path / "run" / runs.CONFIG).write_text(json.dumps({"encoder": "tiny", "image_size": SIZE}))
    text = said(packs, tmp_path / "study", "--init", str(tmp_path / "run"), "--plan")
    assert "transferred-tiny-p15-s0" in text
    settings = StudySettings.from_json(json.loads((tmp_path / "study" / STUDY).read_text())["settings"])
    assert settings.initial == (("tiny", encoder_digest(encoder)),)
    with pytest.raises(ConfigError, match="--init gives tiny, and --encoders names resnet18: give one for each"):
        said(packs, tmp_path / "other", "--init", str(tmp_path / "run"), "--encoders", "resnet18")
    with pytest.raises(ConfigError, match="--init names two encoders of one kind"):
        said(packs, tmp_path / "other", *("--init", str(tmp_path / "run")) * 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "moco"), "methods must be one of simclr, .*, got 'moco'"),
        (("--encoders", "vgg"), "encoders must be one of resnet18, vit_tiny, tiny, got 'vgg'"),
        (("--baselines", "floor"), "baselines must be one of random, transferred, supervised, finetuned, got 'floor'"),
        (("--proportions", "few"), "--proportions takes numbers between 0 and 1 and 'all', such as 0.01,0.15,all"),
        (("--proportions", "1.5"), "proportions lie between 0 and 1"),
        (("--epochs", "0"), "epochs must be at least 1"),
        (("--gpus-per-run", "0.5"), "--gpus-per-run: for --engine ray alone, and the engine is local"),
        (("--engine", "ray", "--threads", "2"), "--threads is for --engine local"),
        (("--engine", "ray", "--gpus-per-run", "3"), "one GPU or a share of it"),
    ],
)
def test_refuses_nonsense_before_it_writes_anything(
    packs: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        said(packs, tmp_path / "study", *arguments)
    assert not (tmp_path / "study").exists()


def test_without_ray_its_engine_says_how_to_get_it(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'pipeprobe\[cluster\]'"):
        said(packs, tmp_path / "study", "--engine", "ray")
    assert not (tmp_path / "study").exists()


def test_the_engine_gets_what_was_asked_for(packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def run(study: Any, estimates: Any, **options: Any) -> SweepOutcome:
        asked.update(options, planned=[experiment.id for experiment in study.planned], estimates=estimates)
        return SweepOutcome(finished=(), held=("a",), failed={}, left=())

    monkeypatch.setattr(module, "run_missing_on_ray", run)
    text = said(
        packs, tmp_path, *("--engine", "ray", "--gpus-per-run", "0.25", "--cpus-per-run", "3", "--address", "auto")
    )  # fmt: skip
    assert "1 are being run by another process" in text
    cluster = asked["cluster"]
    assert (cluster.address, cluster.gpus, cluster.cpus) == ("auto", 0.25, 3)
    assert (asked["data_folder"], asked["max_minutes"], asked["planned"]) == (packs, None, PLANNED)
    assert set(asked["estimates"]) == set(PLANNED)
    said(packs, tmp_path, "--engine", "ray")
    assert (asked["cluster"].gpus, asked["cluster"].cpus, asked["cluster"].address) == (0.0, 1, None)
