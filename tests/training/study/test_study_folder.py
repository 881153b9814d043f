"""The folder of a study: written once, opened again, and refused to whoever asks for another study."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_study import memory_data, register_tiny, settings, write_packs

from serving.errors import ConfigError, DataError
from training import runs
from training.features import encoder_digest
from training.study.experiment import RESULT
from training.study.plan import LOCK, experiments
from training.study.study_folder import (
    INITIAL,
    STUDY,
    Study,
    claimed,
    open_data,
    open_study,
    precision_of,
    reopen_study,
)

HOLDER = """
import fcntl, sys
with open(sys.argv[1], "wb") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch.setitem)


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packs(tmp_path_factory.mktemp("packs"), train=24, val=16, test=8)


def test_a_study_says_what_it_is_before_anything_is_run(packs: Path, tmp_path: Path) -> None:
    study = open_study(tmp_path / "study", packs, settings(), {})
    record = json.loads((tmp_path / "study" / STUDY).read_text())
    assert set(record) == {"schema_version", "settings", "image_size", "data", "planned"}
    assert (record["schema_version"], record["image_size"]) == (1, 32)
    assert record["settings"] == settings().to_json()
    assert record["planned"] == [experiment.id for experiment in study.planned]
    assert record["data"]["val"]["digest"] == study.data.val.digest
    assert (record["data"]["train"]["frames"], record["data"]["train"]["defect"]) == (24, 12)
    assert not any(study.is_done(experiment) for experiment in study.planned)


def test_a_study_is_opened_again_with_the_settings_it_has(packs: Path, tmp_path: Path) -> None:
    plan = settings(seeds=2, view_size=16)
    first = open_study(tmp_path, packs, plan, {})
    written = (tmp_path / STUDY).stat().st_mtime_ns
    for again in (open_study(tmp_path, packs, plan, {}), reopen_study(tmp_path, packs)):
        assert (again.settings, again.planned) == (plan, first.planned)
        assert again.data.train.digest == first.data.train.digest
    assert (tmp_path / STUDY).stat().st_mtime_ns == written


def test_a_study_goes_on_in_the_precision_it_was_started_in(packs: Path, tmp_path: Path) -> None:
    assert precision_of(tmp_path) is None
    open_study(tmp_path, packs, settings(precision="fp32"), {})
    assert precision_of(tmp_path) == "fp32"


def test_packs_that_were_moved_are_the_same_packs(packs: Path, tmp_path: Path) -> None:
    open_study(tmp_path / "study", packs, settings(), {})
    shutil.copytree(packs, tmp_path / "moved")
    assert (
        open_study(tmp_path / "study", tmp_path / "moved", settings(), {}).data.train.path == tmp_path / "moved/train"
    )


def test_other_settings_are_refused_and_the_difference_is_named(packs: Path, tmp_path: Path) -> None:
    open_study(tmp_path, packs, settings(), {})
    with pytest.raises(ConfigError) as refused:
        open_study(tmp_path, packs, settings(epochs=3, proportions=(0.05, None)), {})
    message = str(refused.value)
    assert f"{tmp_path} is a study with other settings" in message
    assert "epochs: 1 there, 3 asked" in message
    assert "proportions: [0.15] there, [0.05, None] asked" in message
    assert "batch_size" not in message
    assert "name another folder" in message


def test_other_packs_are_refused_and_named(packs: Path, tmp_path: Path) -> None:
    open_study(tmp_path / "study", packs, settings(), {})
    other = write_packs(tmp_path / "other", train=32, val=16, test=8)
    with pytest.raises(ConfigError) as refused:
        open_study(tmp_path / "study", other, settings(), {})
    assert "is a study with other data (train: " in str(refused.value)
    assert "'frames': 24" in str(refused.value)
    assert "'frames': 32" in str(refused.value)


@pytest.mark.parametrize("missing", [("train", "val"), ("val",)])
def test_missing_packs_are_named_with_the_command_that_makes_them(
    packs: Path, tmp_path: Path, missing: tuple[str, ...]
) -> None:
    for split in {"train", "val", "test"} - set(missing):
        shutil.copytree(packs / split, tmp_path / split)
    with pytest.raises(DataError) as refused:
        open_data(tmp_path)
    assert f"must hold the packs train and val, and lacks {', '.join(missing)}" in str(refused.value)
    command = f"`pipeprobe-train pack DATA --split {missing[0]} --size S --out {tmp_path / missing[0]}`"
    assert command in str(refused.value)


def test_a_study_needs_no_test_pack(packs: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(packs / split, tmp_path / split)
    data = open_data(tmp_path)
    assert data.test is None
    assert list(data.packs) == ["train", "val"]


def test_packs_that_do_not_go_together_are_refused(packs: Path, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        shutil.copytree(packs / ("val" if split == "test" else split), tmp_path / split)
    with pytest.raises(DataError, match=r"two packs of .* hold the same frames: pack the splits apart"):
        open_data(tmp_path)
    shutil.rmtree(tmp_path / "test")
    larger = write_packs(tmp_path / "larger", train=8, val=8, test=8, size=40)
    shutil.copytree(larger / "test", tmp_path / "test")
    with pytest.raises(DataError, match="frames of 32, 32, 40 px: pack alike"):
        open_data(tmp_path)


def test_initial_encoders_are_kept_with_the_study(packs: Path, tmp_path: Path) -> None:
    encoder = runs.random_encoder("tiny", 32, 7)
    plan = settings(initial=(("tiny", encoder_digest(encoder)),))
    open_study(tmp_path, packs, plan, {"tiny": encoder})
    assert encoder_digest(runs.load_encoder(tmp_path / INITIAL / "tiny")[0]) == encoder_digest(encoder)
    again = reopen_study(tmp_path, packs)
    assert encoder_digest(again.initial["tiny"]) == encoder_digest(encoder)
    other = runs.random_encoder("tiny", 32, 8)
    with pytest.raises(ConfigError, match="the settings name another initial tiny than the one given"):
        open_study(tmp_path, packs, plan, {"tiny": other})
    with pytest.raises(DataError, match="frames of 32 px, the encoder takes 48 px"):
        open_study(tmp_path, packs, plan, {"tiny": runs.random_encoder("tiny", 48, 7)})


def test_what_is_no_study_is_refused(packs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no study\.json"):
        reopen_study(tmp_path, packs)
    (tmp_path / STUDY).write_text("{")
    with pytest.raises(DataError, match=r"study\.json is not JSON"):
        open_study(tmp_path, packs, settings(), {})


def test_done_is_what_has_a_result(tmp_path: Path) -> None:
    study = Study(folder=tmp_path, settings=settings(), data=memory_data(train=12, val=12, test=12), initial={})
    experiment = study.planned[0]
    with claimed(tmp_path, experiment) as mine:
        assert mine
    assert not study.is_done(experiment)
    (tmp_path / experiment.id / RESULT).write_text("{}")
    assert [e for e in study.planned if study.is_done(e)] == [experiment]


def test_an_experiment_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    first, second = experiments(settings())[:2]
    with claimed(tmp_path, first) as mine:
        assert mine
        with claimed(tmp_path, first) as theirs, claimed(tmp_path, second) as other:
            assert (theirs, other) == (False, True)
    with claimed(tmp_path, first) as free:
        assert free


def test_a_process_that_is_killed_lets_go(tmp_path: Path) -> None:
    experiment = experiments(settings())[0]
    folder = tmp_path / experiment.id
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder / LOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with claimed(tmp_path, experiment) as mine:
            assert not mine
        holder.kill()
        holder.wait()
        with claimed(tmp_path, experiment) as mine:
            assert mine
