"""Supervised experiments: part of the inspections is kept from training, and calibrates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_study import memory_pack, register_tiny, settings

from serving.errors import DataError
from training.calibration import fit_platt, flat_platt
from training.data.pack import Pack
from training.metrics import threshold_metrics
from training.study import supervised_scores as module
from training.study.plan import LOCK, Experiment
from training.study.supervised_scores import clear_run, train_and_score
from training.supervised import RESULT

TRAIN, VAL, TEST = (
    memory_pack("train", n=120),
    memory_pack("val", n=48, unlabelled=3),
    memory_pack("t", n=24),
)
EXPERIMENT = Experiment(kind="supervised", method="supervised", encoder="tiny", defect_proportion=None, seed=1)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch.setitem)


def score(folder: Path, *, train: Pack = TRAIN, **changes: Any) -> Any:
    return train_and_score(
        {"train": train, "val": VAL, "test": TEST},
        EXPERIMENT,
        settings(**changes),
        None,
        folder,
        device="cpu",
        command="typed",
    )


def watch(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[Any, ...]]:
    """Grows by the positional arguments of each call of the module's function."""
    calls: list[tuple[Any, ...]] = []
    original = getattr(module, name)

    def watched(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, watched)
    return calls


def test_whole_inspections_are_kept_from_training_and_place_the_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, placed = watch(monkeypatch, "train_supervised"), watch(monkeypatch, "_place")
    scored, verdicts = score(tmp_path)
    fitted, (held_out,) = trained[0][0], placed[0]
    assert len(fitted) + len(held_out.labels) == 120
    kept = set(np.unique(TRAIN.inspections)) - set(np.unique(fitted.inspections))
    # A fifth of twenty inspections.
    assert len(kept) == 4
    of_kept = np.isin(TRAIN.inspections, list(kept))
    np.testing.assert_array_equal(held_out.logits, scored["train"].logits[of_kept])
    np.testing.assert_array_equal(held_out.labels, TRAIN.labels[of_kept])
    # No other threshold separates the held-out frames better.
    scores = verdicts.platt.score(held_out.logits)
    balanced = [
        found["recall"] + found["specificity"]
        for threshold in (verdicts.threshold, *scores)
        for found in [threshold_metrics(held_out.labels, scores, threshold=threshold)]
    ]
    assert balanced[0] == pytest.approx(max(balanced))


def test_labelled_frames_alone_are_scored(tmp_path: Path) -> None:
    found, _ = score(tmp_path)
    for split, pack in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        scored = found[split]
        known = pack.labels >= 0
        np.testing.assert_array_equal(scored.labels, pack.labels[known])
        np.testing.assert_array_equal(scored.classes, pack.classes[known])
        assert len(scored.logits) == np.count_nonzero(known)


def test_a_trained_run_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = score(tmp_path)
    trained = watch(monkeypatch, "train_supervised")
    again = score(tmp_path)
    assert not trained
    for split, before in first[0].items():
        np.testing.assert_array_equal(before.logits, again[0][split].logits)
    assert first[1] == again[1]


def test_what_was_killed_half_way_is_trained_from_the_start(tmp_path: Path) -> None:
    expected = score(tmp_path / "straight")
    killed = tmp_path / "killed"
    score(killed, epochs=2)
    (killed / RESULT).unlink()
    (killed / ".head.pt.12ab.partial").touch()
    found = score(killed)
    np.testing.assert_array_equal(found[0]["val"].logits, expected[0]["val"].logits)
    assert not list(killed.glob(".*.partial"))


def test_logits_that_fall_with_defects_give_flat_scores() -> None:
    scored = module._score(np.where(TRAIN.labels == 1, -1.0, 1.0) + np.linspace(0, 0.1, len(TRAIN)), TRAIN)
    verdicts = module._place(scored)
    assert verdicts.platt == flat_platt(scored.labels, scored.logits)
    rising = module._score(np.where(TRAIN.labels == 1, 1.0, -1.0), TRAIN)
    verdicts = module._place(rising)
    assert verdicts.platt == fit_platt(rising.labels, rising.logits)
    assert verdicts.threshold == pytest.approx(float(verdicts.platt.score(np.zeros(1))[0]))


def test_one_inspection_cannot_be_divided(tmp_path: Path) -> None:
    single = memory_pack("train", n=6)
    with pytest.raises(DataError, match=r"1 inspections .* cannot be divided"):
        score(tmp_path, train=single)


def test_an_emptied_folder_keeps_its_lock(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    for name in (LOCK, "config.json", ".encoder.pt.0a.partial", "features/a.npy"):
        (tmp_path / name).touch()
    clear_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    clear_run(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
