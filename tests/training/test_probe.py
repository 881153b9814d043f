from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.toy_packs import toy_pack

from serving.errors import ConfigError, DataError
from training import probe as probe_module
from training import runs
from training.calibration import Platt
from training.features import cached_features
from training.metrics import auroc
from training.probe import PROBE, ProbeConfig, fit_linear, hold_out_groups, load_probe, run_probe
from training.runs import load_encoder, random_encoder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an untrained encoder."""
    folder = tmp_path_factory.mktemp("run")
    runs.save_encoder(folder, random_encoder("resnet18", 64, 0))
    config = {"encoder": "resnet18", "image_size": 64, "method": "random", "seed": 0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


CONFIG = ProbeConfig(replicates=100)


def weighted_loss(
    weight: np.ndarray, bias: float, x: np.ndarray, labels: np.ndarray, l2: float
) -> tuple[float, np.ndarray]:
    """The documented objective and its gradient, written out independently, for standardised x."""
    n, defects = len(labels), labels.sum()
    c = np.where(labels == 1, n / (2 * defects), n / (2 * (n - defects)))
    z = x @ weight + bias
    loss = np.mean(c * (np.logaddexp(0, z) - labels * z)) + l2 / 2 * weight @ weight
    residual = c * (1 / (1 + np.exp(-z)) - labels) / n
    return float(loss), np.append(x.T @ residual + l2 * weight, residual.sum())


def test_fit_reaches_the_minimum_of_the_weighted_loss() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(500) < 0.1).astype(int)
    features = rng.normal(size=(500, 6)) * [1, 10, 0.1, 1, 1, 1] + labels[:, None] * [1, 5, 0, 0, 0.2, 0] + 3
    probe = fit_linear(features, labels, l2=1e-3)
    mean, std = features.mean(0), features.std(0)
    # Unfold the standardisation, and look for a slope of the loss.
    weight, bias = probe.weight * std, probe.bias + probe.weight @ mean
    _, gradient = weighted_loss(weight, bias, (features - mean) / std, labels, 1e-3)
    assert np.abs(gradient).max() < 1e-5
    # Inverse-frequency weights put the boundary between the classes, not beyond the rare one.
    assert np.mean(probe.logits(features[labels == 1]) > 0) > 0.3


def test_constant_features_get_no_weight() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(40) % 2
    features = np.stack([rng.normal(size=40) + labels, np.full(40, 7.0)], axis=1)
    probe = fit_linear(features, labels, l2=1e-2)
    assert probe.weight[1] == 0
    assert np.isfinite(probe.bias)


def test_held_out_part_takes_whole_groups_of_both_kinds() -> None:
    rng = np.random.default_rng(0)
    groups = np.arange(200) // 4
    labels = (groups < 20).astype(int)  # twenty groups of defects alone, thirty of normals
    held_out = hold_out_groups(labels, groups, 0.2, rng)
    assert not set(groups[held_out]) & set(groups[~held_out])
    assert len(set(groups[held_out])) == 10
    assert 0 < labels[held_out].mean() < 1
    with pytest.raises(DataError, match="cannot be divided"):
        hold_out_groups(labels, np.zeros(200, dtype=np.int64), 0.2, rng)


def test_probe_writes_what_it_measured(run: Path) -> None:
    train, val = toy_pack("train", unlabelled=7), toy_pack("val")
    fitted = run_probe(
        run, train=train, val=val, others={"weak": toy_pack("weak", strength=20.0)}, config=CONFIG, command="c"
    )
    encoder, _ = load_encoder(run)
    logits = fitted.linear.logits(cached_features(run, encoder, val))
    found = {(m.data, m.name): m for m in fitted.metrics}
    value = found["val", "auroc"]
    assert value.value == pytest.approx(auroc(val.labels, logits), abs=1e-12)
    assert value.low <= value.value <= value.high
    assert value.value > 0.85
    assert found["weak", "auroc"].value < value.value
    assert found["train", "auroc"].n == len(train) - 7
    assert {"f1@balanced", "f2@balanced", "f1_normal@balanced", "f2_ciw_binary@balanced", "f1@argmax"} <= {
        name for _, name in found
    }
    # The argmax verdict is that of the weighted classifier itself: logit >= 0.
    verdicts = logits >= 0
    precision, recall = val.labels[verdicts].mean(), verdicts[val.labels == 1].mean()
    assert found["val", "f1@argmax"].value == pytest.approx(2 * precision * recall / (precision + recall))

    record = fitted.record
    assert record["data"]["train"]["unlabelled"] == 7
    assert record["calibration_quality"]["val"]["n"] == len(val)
    assert fitted.calibration.data.endswith(" %")
    point = fitted.operating_points["recall_95"]
    platt = Platt(slope=fitted.calibration.slope, intercept=fitted.calibration.intercept)
    assert point.recall == np.mean(platt.score(logits)[val.labels == 1] >= point.threshold)
    thresholds = [fitted.operating_points[name].threshold for name in ("recall_99", "recall_95")]
    assert thresholds == sorted(thresholds)


def test_a_probe_that_knows_nothing_is_measured_and_marked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, val = toy_pack("train"), toy_pack("val")
    # The held-out part contradicts the fitted one.
    held_out = train.inspections % 5 == 0
    train.labels = np.where(held_out, 1 - train.labels, train.labels)
    monkeypatch.setattr(probe_module, "hold_out_groups", lambda *_: held_out)
    fitted = run_probe(run, train=train, val=val, config=CONFIG)
    assert fitted.record["informative"] is False
    found = {metric.name: metric.value for metric in fitted.metrics if metric.data == "val"}
    # The ranking is reported as it is; the scores claim nothing.
    assert found["auroc"] > 0.85
    assert fitted.record["calibration_quality"]["val"]["brier_after"] == pytest.approx(0.25, abs=0.02)


def test_the_same_seed_gives_the_same_probe(run: Path) -> None:
    train, val = toy_pack("train"), toy_pack("val")
    first = run_probe(run, train=train, val=val, config=CONFIG)
    again = run_probe(run, train=train, val=val, config=CONFIG)
    assert first.record == again.record
    np.testing.assert_array_equal(first.linear.weight, again.linear.weight)


def test_frames_without_inspections_or_classes_work(run: Path) -> None:
    train, val = toy_pack("train"), toy_pack("val")
    for pack in (train, val):
        pack.inspections[:] = -1
        pack.classes[:] = 0
    fitted = run_probe(run, train=train, val=val, config=CONFIG)
    assert fitted.calibration.n == pytest.approx(0.2 * len(train), abs=1)
    assert not any("ciw" in metric.name for metric in fitted.metrics)
    assert fitted.record["data"]["val"]["inspections"] == 0


def test_measuring_on_the_training_pack_is_refused(run: Path) -> None:
    train = toy_pack("train")
    with pytest.raises(DataError, match="training pack itself"):
        run_probe(run, train=train, val=train, config=CONFIG)
    with pytest.raises(DataError, match="shares frames"):
        run_probe(run, train=train, val=toy_pack("train", n=60), config=CONFIG)
    with pytest.raises(ConfigError, match="'val' is taken"):
        run_probe(run, train=train, val=toy_pack("val"), others={"val": train}, config=CONFIG)


def test_a_feature_that_hardly_varies_gets_no_large_weight_where_a_least_scale_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    features = rng.normal(size=(200, 4)) + labels[:, None]
    features[:, 3] *= 1e-4
    bare = fit_linear(features, labels, l2=1.0)
    bounded = fit_linear(features, labels, l2=1.0, least_scale=0.1)
    assert abs(bare.weight[3]) > 100 * np.abs(bare.weight[:3]).max()
    assert abs(bounded.weight[3]) < np.abs(bounded.weight[:3]).max()
    np.testing.assert_allclose(bounded.weight[:3], bare.weight[:3], rtol=0.5)


def test_a_mixed_up_probe_folder_is_refused(run: Path) -> None:
    run_probe(run, train=toy_pack("train"), val=toy_pack("val"), config=CONFIG)
    path = run / PROBE / "probe.npz"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(DataError, match="fit the probe again"):
        load_probe(run)
    with pytest.raises(DataError, match="holds no probe"):
        load_probe(run / "nowhere")
    path.unlink()
    with pytest.raises(DataError, match="holds no probe"):
        load_probe(run)


def test_config_is_checked() -> None:
    with pytest.raises(ConfigError, match="calibration_share"):
        replace(CONFIG, calibration_share=0.9)
    with pytest.raises(ConfigError, match="l2"):
        ProbeConfig(l2=())
