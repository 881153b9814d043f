from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.toy_packs import ToyPack, toy_pack

from serving.errors import ConfigError, DataError
from training import runs
from training.class_probe import (
    CLASSES,
    UNWEIGHTED,
    ClassProbeConfig,
    fit_class_probe,
    load_class_probe,
    run_class_probe,
)
from training.data.classes import CLASS_CODES
from training.features import cached_features
from training.multilabel_metrics import official_scores
from training.probe import fit_linear
from training.runs import load_encoder, random_encoder

CONFIG = ClassProbeConfig(replicates=100)
RB, RO, FS, OK = (CLASS_CODES.index(code) for code in ("RB", "RO", "FS", "OK"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an untrained encoder."""
    folder = tmp_path_factory.mktemp("run")
    runs.save_encoder(folder, random_encoder("resnet18", 32, 0))
    config = {"encoder": "resnet18", "image_size": 32, "method": "random", "seed": 0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def draw(seed: int = 0, n: int = 600, d: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features in which RB moves the first axis, RO the second and FS none; OK in 4 frames; six frames a group."""
    rng = np.random.default_rng(seed)
    classes = np.zeros((n, len(CLASS_CODES)), np.uint8)
    for column, share in ((RB, 0.3), (RO, 0.05), (FS, 0.5)):
        classes[:, column] = rng.random(n) < share
    classes[[0, 100, 200, 300], OK] = 1
    features = rng.normal(size=(n, d)) * np.logspace(-1, 1, d) + 2
    features[:, 0] += classes[:, RB] * 0.4
    features[:, 1] += classes[:, RO] * 0.5
    return features.astype(np.float32), classes, np.arange(n) // 6


def test_each_class_is_the_binary_probe_of_that_class() -> None:
    features, classes, groups = draw()
    probe = fit_class_probe(features, classes, groups, config=CONFIG)
    assert set(probe.l2) == {"RB", "RO", "FS"}
    scores = probe.scores(features)
    assert scores.shape == (600, 17)
    assert scores.dtype == np.float64
    for code, column in (("RB", RB), ("RO", RO), ("FS", FS)):
        binary = fit_linear(features, classes[:, column], l2=probe.l2[code])
        expected = 1 / (1 + np.exp(-binary.logits(features)))
        np.testing.assert_allclose(scores[:, column], expected, atol=2e-4)


def test_it_learns_what_the_features_hold() -> None:
    probe = fit_class_probe(*draw(), config=CONFIG)
    features, classes, _ = draw(seed=1)
    found = official_scores(classes, probe.scores(features)).per_class
    assert found["RB"].average_precision > 0.9
    assert found["RO"].average_precision > 0.5
    assert found["RO"].recall > 0.8
    # Nothing tells FS, half of all frames: a strong l2 is chosen for it.
    assert found["FS"].average_precision == pytest.approx(0.5, abs=0.1)
    assert probe.l2["FS"] >= 1 > probe.l2["RB"]


def test_absent_classes_score_zero_and_are_named() -> None:
    features, classes, groups = draw()
    probe = fit_class_probe(features, classes, groups, config=CONFIG)
    # OK has four examples, the others none at all.
    assert "OK" in probe.absent
    assert set(probe.absent) | set(probe.l2) == set(CLASS_CODES)
    columns = [CLASS_CODES.index(code) for code in probe.absent]
    assert len(columns) == 14
    for scores in (probe.scores(features), probe.unweighted_scores(features)):
        assert (scores[:, columns] == 0).all()
    willing = fit_class_probe(features, classes, groups, config=replace(CONFIG, min_examples=4))
    assert "OK" not in willing.absent


def test_a_class_of_one_inspection_or_of_all_frames_is_absent() -> None:
    features, classes, groups = draw()
    classes[:, OK] = groups < 1
    classes[:, FS] = 1
    probe = fit_class_probe(features, classes, groups, config=replace(CONFIG, min_examples=5))
    assert {"OK", "FS"} <= set(probe.absent)
    classes[:, OK] = groups < 2
    assert "OK" in fit_class_probe(features, classes, groups, config=replace(CONFIG, min_examples=5)).l2


def test_l2_is_chosen_on_inspections_that_were_not_fitted() -> None:
    # Every inspection has a fingerprint that gives its class away: fits well on its own frames and says nothing of
    # others. Holding out frames instead of inspections would choose the weakest l2.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 10)
    features = rng.normal(size=(60, 40))[groups] + 0.1 * rng.normal(size=(600, 40))
    classes = np.zeros((600, len(CLASS_CODES)), np.uint8)
    classes[:, RB] = (rng.random(60) < 0.5)[groups]
    by_inspection = fit_class_probe(features, classes, groups, config=CONFIG).l2["RB"]
    by_frame = fit_class_probe(features, classes, np.full(600, -1), config=CONFIG).l2["RB"]
    assert by_inspection >= 1 > by_frame


def test_unweighted_scores_are_right_on_average() -> None:
    features, classes, groups = draw(n=3000)
    probe = fit_class_probe(features, classes, groups, config=CONFIG)
    frequency = classes.mean(0)
    unweighted, balanced = probe.unweighted_scores(features).mean(0), probe.scores(features).mean(0)
    for column in (RB, RO, FS):
        assert unweighted[column] == pytest.approx(frequency[column], abs=0.03)
    assert balanced[RO] > 1.5 * frequency[RO]
    logits = np.log(probe.scores(features)[:, RO] / (1 - probe.scores(features)[:, RO]))
    shifted = logits + np.log(frequency[RO] / (1 - frequency[RO]))
    np.testing.assert_allclose(probe.unweighted_scores(features)[:, RO], 1 / (1 + np.exp(-shifted)), atol=1e-9)


def test_the_same_seed_gives_the_same_probe() -> None:
    first, again = (fit_class_probe(*draw(), config=CONFIG) for _ in range(2))
    np.testing.assert_array_equal(first.weight, again.weight)
    assert first.l2 == again.l2


def test_data_without_any_learnable_class_are_refused() -> None:
    features, classes, groups = draw()
    with pytest.raises(DataError, match="no class has 10 frames"):
        fit_class_probe(features, np.zeros_like(classes), groups, config=CONFIG)
    with pytest.raises(DataError, match="do not belong together"):
        fit_class_probe(features[:-1], classes, groups, config=CONFIG)
    with pytest.raises(DataError, match="not finite"):
        fit_class_probe(np.where(features > 9, np.nan, features), classes, groups, config=CONFIG)


def test_a_run_holds_what_was_measured(run: Path) -> None:
    train, val = toy_pack("train", n=120, size=32, unlabelled=7), toy_pack("val", n=120, size=32)
    weak = toy_pack("weak", n=120, size=32, strength=10.0)
    fitted = run_class_probe(run, train=train, val=val, others={"weak": weak}, config=CONFIG, command="c")
    assert set(fitted.probe.l2) == {"RB", "RO"}
    encoder, _ = load_encoder(run)
    features = cached_features(run, encoder, val)
    expected = official_scores(val.classes, fitted.probe.scores(features))
    assert fitted.scores["val"] == expected
    found = {(metric.data, metric.name): metric for metric in fitted.metrics}
    value = found["val", "f2_ciw"]
    assert (value.value, value.n, value.command) == (pytest.approx(expected.f2_ciw), len(val), "c")
    assert value.low < value.value < value.high
    assert found["weak", "f2_ciw"].value < value.value
    unweighted = official_scores(val.classes, fitted.probe.unweighted_scores(features))
    assert found["val", f"f1_normal{UNWEIGHTED}"].value == pytest.approx(unweighted.f1_normal)
    record = fitted.record
    assert record["data"]["train"]["unlabelled"] == 7
    assert record["data"]["train"]["classes_unknown"] == 0
    assert fitted.scores["train"].n == len(train) - 7
    assert set(record["absent"]) == set(CLASS_CODES) - {"RB", "RO"}
    again = load_class_probe(run)
    np.testing.assert_array_equal(again.probe.scores(features), fitted.probe.scores(features))
    assert again.record == record


def test_defects_of_unknown_class_are_left_out_and_counted(run: Path) -> None:
    train, val = toy_pack("train", n=120, size=32), toy_pack("val", n=120, size=32)
    defects = np.flatnonzero(train.labels == 1)[:20]
    train.classes[defects] = 0
    fitted = run_class_probe(run, train=train, val=val, config=CONFIG)
    assert fitted.record["data"]["train"]["classes_unknown"] == 20
    assert fitted.scores["train"].n == len(train) - 20


def _without_classes(split: str) -> ToyPack:
    pack = toy_pack(split, n=120, size=32)
    pack.classes[:] = 0
    return pack


def test_packs_that_cannot_be_used_are_refused(run: Path) -> None:
    train = toy_pack("train", n=120, size=32)
    with pytest.raises(DataError, match="0 frames with a known class"):
        run_class_probe(run, train=train, val=_without_classes("val"), config=CONFIG)
    with pytest.raises(DataError, match="training pack itself"):
        run_class_probe(run, train=train, val=train, config=CONFIG)
    with pytest.raises(DataError, match="pack the data again with --size 32"):
        run_class_probe(run, train=train, val=toy_pack("val", n=120, size=64), config=CONFIG)


def test_a_mixed_up_folder_is_refused(run: Path) -> None:
    run_class_probe(run, train=toy_pack("train", n=120, size=32), val=toy_pack("val", n=120, size=32), config=CONFIG)
    path = run / CLASSES / "classes.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="fit the probes again"):
        load_class_probe(run)
    with pytest.raises(DataError, match="no multi-class probes"):
        load_class_probe(run / "nowhere")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"held_out_share": 0.9}, "held_out_share"),
        ({"l2": (1e-2, 1.0)}, "strongest first"),
        ({"l2": ()}, "l2"),
        ({"min_examples": 1}, "min_examples"),
        ({"replicates": 10}, "100 replicates"),
    ],
)
def test_config_is_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClassProbeConfig(**settings)  # type: ignore[arg-type]
