"""Estimates: worked out from throughputs, which are measured once for each kind and machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.tiny_study import memory_data, memory_pack, register_tiny, settings

from training.provenance import hardware
from training.study import estimate as module
from training.study.estimate import OVERHEAD_S, THROUGHPUT, estimate_s
from training.study.experiment import StudyData
from training.study.study_folder import Study

RATES = {"encode tiny": 100.0, "train simclr tiny": 10.0}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch.setitem)


def tiny_study(folder: Path, *, train: int = 120, **changes: Any) -> Study:
    return Study(
        folder=folder, settings=settings(**changes), data=memory_data(train=train, val=60, test=40), initial={}
    )


def write_rates(folder: Path, **changes: Any) -> None:
    known = {"hardware": hardware(), "device": "cpu", "frames_per_s": RATES, **changes}
    (folder / THROUGHPUT).write_text(json.dumps(known))


def never(*_arguments: Any) -> float:
    raise AssertionError("timed again")


def test_known_rates_give_the_time_of_each_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_training_rate", never)
    monkeypatch.setattr(module, "_encoding_rate", never)
    write_rates(tmp_path)
    study = tiny_study(tmp_path, epochs=4, proportions=(0.5,), frames=50)
    # 50 frames of train, 60 of val and 40 of test are encoded; a supervised step costs half of two views.
    encoding = OVERHEAD_S + 150 / 100
    assert estimate_s(study, "cpu") == {
        "random-tiny-p50-s0": pytest.approx(encoding),
        "simclr-tiny-p50-s0": pytest.approx(encoding + 4 * 50 / 10),
        "supervised-tiny-p50-s0": pytest.approx(encoding + 4 * 50 / 10 / 2),
        "finetuned_simclr-tiny-p50-s0": pytest.approx(encoding + 4 * 50 / 10 / 2),
    }


def test_every_planned_experiment_has_one_and_larger_subsets_take_longer(tmp_path: Path) -> None:
    write_rates(tmp_path)
    study = tiny_study(tmp_path, proportions=(0.05, 0.15, None), seeds=2)
    found = estimate_s(study, "cpu")
    assert list(found) == [experiment.id for experiment in study.planned]
    assert found["simclr-tiny-p5-s1"] < found["simclr-tiny-p15-s1"] < found["simclr-tiny-all-s1"]


def test_nothing_is_timed_that_was_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_training_rate", never)
    study = replace(tiny_study(tmp_path), only=("random-*",))
    assert list(estimate_s(study, "cpu")) == ["random-tiny-p15-s0"]


def test_a_pretraining_that_proportions_share_is_counted_once(tmp_path: Path) -> None:
    write_rates(tmp_path)
    study = tiny_study(tmp_path, epochs=4, proportions=(0.5, 0.25), frames=40, pretrain_on="split")
    found = estimate_s(study, "cpu")
    # So are features: 120 frames of train, 60 of val and 40 of test.
    assert found["simclr-tiny-p50-s0"] == pytest.approx(OVERHEAD_S + 220 / 100 + 4 * 120 / 10)
    assert found["simclr-tiny-p25-s0"] == pytest.approx(OVERHEAD_S)
    assert found["random-tiny-p50-s0"] == pytest.approx(OVERHEAD_S + 220 / 100)
    assert found["random-tiny-p25-s0"] == pytest.approx(OVERHEAD_S)
    assert found["supervised-tiny-p25-s0"] == pytest.approx(OVERHEAD_S + 140 / 100 + 4 * 40 / 10 / 2)


def test_rates_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study(tmp_path)
    first = estimate_s(study, "cpu")
    known = json.loads((tmp_path / THROUGHPUT).read_text())
    assert (known["hardware"], known["device"]) == (hardware(), "cpu")
    assert set(known["frames_per_s"]) == set(RATES)
    assert all(rate > 0 for rate in known["frames_per_s"].values())
    monkeypatch.setattr(module, "_training_rate", never)
    monkeypatch.setattr(module, "_encoding_rate", never)
    assert estimate_s(study, "cpu") == first


@pytest.mark.parametrize("changes", [{"hardware": "abacus"}, {"device": "cuda"}])
def test_rates_of_another_machine_or_device_are_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    write_rates(tmp_path, **changes)
    monkeypatch.setattr(module, "_training_rate", lambda *_: 1.0)
    monkeypatch.setattr(module, "_encoding_rate", lambda *_: 2.0)
    estimate_s(tiny_study(tmp_path), "cpu")
    assert json.loads((tmp_path / THROUGHPUT).read_text()) == {
        "hardware": hardware(),
        "device": "cpu",
        "frames_per_s": {"encode tiny": 2.0, "train simclr tiny": 1.0},
    }


def test_a_subset_that_cannot_be_drawn_does_not_spoil_the_others(tmp_path: Path) -> None:
    write_rates(tmp_path)
    data = StudyData(train=memory_pack("train", n=24), val=memory_pack("val", n=60), test=memory_pack("test", n=40))
    study = Study(folder=tmp_path, settings=settings(proportions=(0.01, 0.15)), data=data, initial={})
    found = estimate_s(study, "cpu")
    assert found["simclr-tiny-p1-s0"] == pytest.approx(OVERHEAD_S + 100 / 100)
    assert found["simclr-tiny-p15-s0"] > found["simclr-tiny-p1-s0"]
