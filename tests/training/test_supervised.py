"""Supervised training: it learns, starts where it is told, bears imbalance, and leaves whole runs or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_study import register_tiny
from support.toy_packs import ToyPack, toy_pack
from torch import Tensor

from serving.errors import ConfigError, DataError
from training import supervised as module
from training.backbones import ENCODERS, Encoder
from training.data.augment import View, ViewSpec, inspection_views, symmetric_views
from training.data.normalise import normalise
from training.data.pack import Pack
from training.data.pack_subset import FrameRows
from training.export import ExportConfig, export_pair
from training.features import encoder_digest
from training.loop import DivergedError
from training.metrics import evaluate, threshold_metrics
from training.precision import forward_in
from training.probe import LinearProbe, ProbeConfig, fit_linear, run_probe
from training.runs import load_encoder, random_encoder
from training.supervised import (
    HEAD,
    LEARNING_RATES,
    RESULT,
    Classifier,
    SupervisedConfig,
    SupervisedResult,
    build_optimiser,
    class_weights,
    classify,
    initial_classifier,
    labelled_view,
    load_classifier,
    train_supervised,
    weighted_loss,
)

SIZE = 32


def config(**changes: Any) -> SupervisedConfig:
    return SupervisedConfig(**{"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, **changes})


def small(split: str, n: int = 24, **changes: Any) -> ToyPack:
    return toy_pack(split, n=n, size=SIZE, **changes)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an encoder of one convolution, for what does not depend on the encoder."""
    register_tiny(monkeypatch.setitem)
    return "tiny"


@pytest.fixture(scope="module", params=["resnet18", "vit_tiny"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SupervisedResult]:
    """A run from scratch on frames that can be learned in seconds, and its result."""
    run = tmp_path_factory.mktemp(request.param)
    settings = config(encoder=request.param, epochs=4, batch_size=16)
    return run, train_supervised(*easy(unlabelled=8), config=settings, out=run, command="typed")


def easy(**changes: Any) -> tuple[ToyPack, ToyPack]:
    """Train and val frames whose defects are easily seen."""
    return small("train", n=128, strength=90.0, **changes), small("val", n=60, strength=90.0)


def test_it_learns_from_scratch_what_the_labels_say(trained: tuple[Path, SupervisedResult]) -> None:
    run, result = trained
    assert result.auroc > 0.85
    assert result.losses[-1] < result.losses[0]
    assert (result.n_train, result.n_val) == (120, 60)
    # Seven whole batches an epoch.
    assert result.frames_seen == 4 * 7 * 16
    assert result.metrics["auroc"].low <= result.auroc <= result.metrics["auroc"].high
    record = json.loads((run / RESULT).read_text())
    assert record["result"]["auroc"] == result.auroc
    assert record["command"] == "typed"
    assert record["data"]["train"]["unlabelled"] == 8
    assert not [key for key, value in record["config"].items() if value is None and key != "initial_encoder"]


def test_its_run_gives_back_the_classifier(trained: tuple[Path, SupervisedResult]) -> None:
    run, result = trained
    _, val = easy()
    logits = classify(*load_classifier(run), val)
    assert evaluate(val.labels, logits, thresholds={}, rng=np.random.default_rng(0))["auroc"].value == result.auroc
    metrics = threshold_metrics(val.labels, logits, threshold=0.0)
    assert metrics["f1"] == result.metrics["f1@0.5"].value > 0.7


@pytest.mark.parametrize("trained", ["resnet18"], indirect=True)
def test_its_run_is_probed_and_exported_like_any_other(trained: tuple[Path, SupervisedResult], tmp_path: Path) -> None:
    run, _ = trained
    train, val = easy()
    probe = run_probe(run, train=train, val=val, config=ProbeConfig(replicates=100))
    assert probe.record["method"] == "supervised"
    assert next(metric.value for metric in probe.metrics if (metric.data, metric.name) == ("val", "auroc")) > 0.85
    pair = export_pair(run, pack=val, out=tmp_path, config=ExportConfig(name="it", version="1", variants=("fp32",)))
    assert "supervised" in (pair / "CARD.md").read_text()


def test_fine_tuning_goes_on_from_what_was_learned(trained: tuple[Path, SupervisedResult], tmp_path: Path) -> None:
    initial, run_config = load_encoder(trained[0])
    before = encoder_digest(initial)
    train, val = small("train", n=48, seed=1, strength=90.0), small("val", n=60, seed=1, strength=90.0)
    settings = config(encoder=initial.name)
    tuned = train_supervised(train, val, config=settings, initial=initial, out=tmp_path)
    scratch = train_supervised(train, val, config=settings)
    assert tuned.losses[0] < scratch.losses[0]
    assert tuned.auroc > max(scratch.auroc, 0.85)
    assert encoder_digest(initial) == before
    tuned_config = load_encoder(tmp_path)[1]
    assert (run_config["method"], run_config["initial_encoder"]) == ("supervised", None)
    assert (tuned_config["method"], tuned_config["initial_encoder"]) == ("finetuned", before)
    shares = [(found["encoder_share"], found["full_size_share"]) for found in (run_config, tuned_config)]
    assert shares == [(1.0, 0.2), (0.1, 1.0)]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_first_step_sees_the_features_of_the_initial_encoder(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pack, initial = small("train", n=12), random_encoder(encoder, SIZE, 7)
    seen: list[tuple[Tensor, Tensor]] = []
    original = Classifier.forward

    def watched(self: Classifier, images: Tensor) -> Tensor:
        with forward_in(self.precision, images.device):
            seen.append((images.clone(), self.encoder(images).detach().clone()))
        return original(self, images)

    monkeypatch.setattr(Classifier, "forward", watched)
    settings = config(encoder=encoder, precision="bf16")
    train_supervised(pack, small("val", n=12), config=settings, initial=initial)
    images, features = seen[0]
    # In evaluation mode, which for batch norms means the statistics of pretraining.
    with torch.inference_mode(), forward_in("bf16", "cpu"):
        torch.testing.assert_close(
            features, initial.eval().to(memory_format=torch.channels_last)(images), rtol=0, atol=0
        )


@pytest.mark.parametrize("encoder", ENCODERS)
def test_without_an_initial_encoder_the_seed_draws_the_weights(encoder: str) -> None:
    pack, initial = small("train"), random_encoder(encoder, SIZE, 7)
    copied = initial_classifier(config(encoder=encoder), pack, initial)
    drawn, again, other = (initial_classifier(config(encoder=encoder, seed=seed), pack, None) for seed in (0, 0, 1))
    assert encoder_digest(copied.encoder) == encoder_digest(initial)
    assert encoder_digest(drawn.encoder) == encoder_digest(again.encoder)
    assert len({encoder_digest(model.encoder) for model in (copied, drawn, other)}) == 3


def test_a_run_starts_at_the_initial_weights(tiny: str, tmp_path: Path) -> None:
    initial, settings = random_encoder(tiny, SIZE, 7), config(encoder=tiny, learning_rate=1e-12)
    train_supervised(small("train"), small("val"), config=settings, initial=initial, out=tmp_path)
    found = dict(load_encoder(tmp_path)[0].named_parameters())
    for name, weight in initial.named_parameters():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-9)


def test_batch_norms_learn_their_statistics_from_scratch_and_keep_them_in_fine_tuning(
    tiny: str, tmp_path: Path
) -> None:
    initial, settings = random_encoder(tiny, SIZE, 7), config(encoder=tiny)
    for name, start in (("scratch", None), ("tuned", initial)):
        train_supervised(small("train"), small("val"), config=settings, initial=start, out=tmp_path / name)
    kept = load_encoder(tmp_path / "tuned")[0].norm
    assert torch.equal(kept.running_mean, initial.norm.running_mean)
    assert not torch.equal(kept.weight, initial.norm.weight)
    assert not torch.equal(load_encoder(tmp_path / "scratch")[0].norm.running_mean, initial.norm.running_mean)


def test_fine_tuning_starts_as_a_probe_on_the_encoder_as_it_is(tmp_path: Path, tiny: str) -> None:
    train, val = easy(unlabelled=20)
    initial, labelled = random_encoder(tiny, SIZE, 7), np.arange(20, len(train))
    settings = config(encoder=tiny, learning_rate=1e-12)
    train_supervised(train, val, config=settings, initial=initial, out=tmp_path)
    with torch.inference_mode():
        features = initial(normalise(torch.from_numpy(train.frames[labelled]))).numpy()
    expected = fit_linear(features, train.labels[labelled], l2=1.0)
    _, head = load_classifier(tmp_path)
    np.testing.assert_allclose(head.weight, expected.weight, rtol=1e-3, atol=1e-4)
    assert head.bias == pytest.approx(expected.bias, rel=1e-3, abs=1e-3)


def test_the_encoder_moves_at_its_share_of_the_rate_and_norms_do_not_decay() -> None:
    pack = small("train")
    settings = config(encoder="vit_tiny", learning_rate=2e-3, encoder_share=0.25, weight_decay=0.1)
    model = initial_classifier(settings, pack, None)
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in build_optimiser(model, settings).param_groups
        for parameter in group["params"]
    }
    trunk = model.encoder.trunk
    assert found[model.head.weight] == (2e-3, 0.1)
    assert found[model.head.bias] == (2e-3, 0.0)
    assert found[trunk.blocks[3].mlp.fc1.weight] == (5e-4, 0.1)
    assert found[trunk.blocks[3].mlp.fc1.bias] == found[trunk.norm.weight] == found[trunk.pos_embed] == (5e-4, 0.0)
    assert len(found) == len(list(model.parameters()))


def test_what_is_left_out_depends_on_the_encoder_and_the_batch() -> None:
    assert LEARNING_RATES.keys() == ENCODERS.keys()
    resolved = SupervisedConfig(encoder="vit_tiny", batch_size=256).resolved(112, (0.1, 0.3), "fp32")
    # Four times the batch of 64, twice the rate.
    assert (resolved.learning_rate, resolved.encoder_share) == (2 * 5e-4, 0.1)
    assert (resolved.view_size, resolved.full_size_share, resolved.precision) == (112, 0.3, "fp32")
    given = SupervisedConfig(learning_rate=0.3, encoder_share=0.2, view_size=48, full_size_share=0.0, precision="bf16")
    assert given.resolved(112, (1.0, 0.5), "fp32") == given


def test_the_loss_is_the_weighted_cross_entropy_of_smoothed_labels() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 4, 50), (rng.random(50) < 0.3).astype(np.float64)
    target = labels * 0.9 + (1 - labels) * 0.1
    score = 1 / (1 + np.exp(-logits))
    losses = -(target * np.log(score) + (1 - target) * np.log(1 - score))
    expected = np.mean(np.where(labels == 1, 7.0, 0.5) * losses)
    found = weighted_loss(torch.from_numpy(logits), torch.from_numpy(labels), (0.5, 7.0), 0.1)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_both_classes_weigh_the_same_however_rare_one_is() -> None:
    normal, defect = class_weights(np.array([0] * 99 + [1]))
    assert (normal, defect) == (pytest.approx(100 / 198), pytest.approx(50))
    assert 99 * normal == pytest.approx(defect)
    assert (99 * normal + defect) / 100 == pytest.approx(1)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_one_per_cent_of_defects_is_enough_to_train(encoder: str) -> None:
    train = small("train", n=100)
    train.labels = np.zeros_like(train.labels)
    train.labels[37] = 1
    result = train_supervised(train, small("val"), config=config(encoder=encoder, batch_size=32))
    assert np.isfinite(result.losses).all()
    assert result.frames_seen == 96


def test_fewer_frames_than_a_batch_are_one_batch(tiny: str) -> None:
    result = train_supervised(small("train", n=12), small("val"), config=config(encoder=tiny, epochs=2, batch_size=64))
    assert (result.frames_seen, result.n_train) == (24, 12)


@pytest.mark.parametrize(("kind", "origin"), [("inspection", inspection_views), ("published", symmetric_views)])
def test_views_are_those_of_pretraining_without_what_destroys_colour(kind: Any, origin: Callable[[int], Any]) -> None:
    view, theirs = labelled_view(kind, 48), origin(48).views[0]
    assert (view.count, view.grey_p, view.solarise_p) == (1, 0.0, 0.0)
    assert (view.jitter.hue, view.jitter.saturation) == (0.02, 0.2)
    for name in ("size", "crop_scale", "crop_ratio", "flip", "blur_p", "blur_sigma", "jitter_p"):
        assert getattr(view, name) == getattr(theirs, name)
    assert (view.jitter.brightness, view.jitter.contrast) == (theirs.jitter.brightness, theirs.jitter.contrast)
    mild: View = labelled_view("mild", 48)
    assert mild.crop_scale[0] > view.crop_scale[0]


def test_views_may_be_smaller_than_the_frames_until_near_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, original = [], module.make_views

    def watched(frames: Tensor, spec: ViewSpec, generator: torch.Generator) -> list[Tensor]:
        sizes.append(spec.views[0].size)
        return original(frames, spec, generator)

    monkeypatch.setattr(module, "make_views", watched)
    settings = config(encoder="vit_tiny", view_size=16, views="inspection", full_size_share=0.25, epochs=2)
    train_supervised(small("train"), small("val"), config=settings, out=tmp_path)
    # Three steps an epoch; a quarter of six, rounded up, are on whole frames.
    assert sizes == [16, 16, 16, 16, SIZE, SIZE]
    encoder, run_config = load_encoder(tmp_path)
    assert (encoder.image_size, run_config["view_size"], run_config["views"]) == (SIZE, 16, "inspection")


def test_views_that_the_encoder_cannot_take_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of that, got 20 px"):
        train_supervised(small("train"), small("val"), config=config(encoder="vit_tiny", view_size=20))


class StrictFrames:
    """What may be asked of a pack's frames: length, shape, bytes; rows by place, slice or places."""

    def __init__(self, frames: np.ndarray) -> None:
        self._frames = frames
        self.shape, self.nbytes = frames.shape, frames.nbytes

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, places: Any) -> np.ndarray:
        is_places = isinstance(places, np.ndarray) and np.issubdtype(places.dtype, np.integer)
        assert is_places or isinstance(places, int | np.integer | slice)
        return self._frames[places]


def as_pack(toy: ToyPack, frames: Any, rows: np.ndarray) -> Pack:
    columns = {name: getattr(toy, name)[rows] for name in ("labels", "classes", "inspections")}
    names = tuple(np.array(toy.names)[rows])
    return Pack(
        path=toy.path, frames=frames, names=names, size=toy.size, source=toy.source, split=toy.split,
        digest=toy.digest, index={}, **columns,
    )  # fmt: skip


def test_frames_need_not_be_an_array(tiny: str) -> None:
    toy, val = small("train", n=36), small("val")
    rows = np.flatnonzero(np.arange(36) % 3)[::-1].copy()
    chosen = as_pack(toy, FrameRows(StrictFrames(toy.frames), rows), rows)
    copied = as_pack(toy, toy.frames[rows], rows)
    everything = np.arange(len(val))
    held_out = as_pack(val, StrictFrames(val.frames), everything)
    settings = config(encoder=tiny)
    found = train_supervised(chosen, held_out, config=settings)
    expected = train_supervised(copied, as_pack(val, val.frames, everything), config=settings)
    assert (found.losses, found.metrics) == (expected.losses, expected.metrics)


def test_the_same_seed_gives_the_same_result_and_leaves_the_global_generator(tiny: str) -> None:
    train, val = small("train"), small("val")
    state = torch.random.get_rng_state()
    first, again, other = (train_supervised(train, val, config=config(encoder=tiny, seed=seed)) for seed in (0, 0, 1))
    assert first.losses == again.losses != other.losses
    assert first.metrics == again.metrics
    assert torch.equal(state, torch.random.get_rng_state())


def test_logits_are_the_heads_on_features_in_float32() -> None:
    pack, encoder = small("val", unlabelled=3), random_encoder("resnet18", SIZE, 0)
    rng = np.random.default_rng(0)
    head = LinearProbe(weight=rng.normal(size=512), bias=0.7)
    with torch.inference_mode():
        features = encoder(normalise(torch.from_numpy(pack.frames))).double().numpy()
    np.testing.assert_allclose(classify(encoder, head, pack), features @ head.weight + 0.7, atol=1e-4)


def test_packs_that_do_not_suit_are_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_Trainer", lambda *_arguments: pytest.fail("started to train"))
    one_class = small("train")
    one_class.labels = np.ones_like(one_class.labels)
    with pytest.raises(DataError, match="24 defect and 0 normal frames: training"):
        train_supervised(one_class, small("val"))
    with pytest.raises(DataError, match="24 defect and 0 normal frames: measuring"):
        train_supervised(small("train"), one_class)
    with pytest.raises(DataError, match="32 px"):
        train_supervised(small("train"), toy_pack("val", n=24, size=64))
    with pytest.raises(ConfigError, match=r"fine-tune is vit_tiny, the config says resnet18"):
        train_supervised(small("train"), small("val"), initial=random_encoder("vit_tiny", SIZE, 0))
    with pytest.raises(DataError, match="--size 64"):
        train_supervised(small("train"), small("val"), initial=random_encoder("resnet18", 64, 0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder": "resnet50"},
        {"views": "grey"},
        {"epochs": 0},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"encoder_share": -0.1},
        {"weight_decay": -1.0},
        {"warmup": 0.0},
        {"label_smoothing": 0.5},
        {"view_size": 0},
        {"full_size_share": 1.5},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SupervisedConfig(**wrong)


def test_a_loss_that_is_not_finite_is_an_error_and_leaves_no_run(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"at step \d+ of \d+ on toy: lower the learning rate"):
        train_supervised(
            small("train"), small("val"), config=config(encoder=tiny, learning_rate=1e30, epochs=3), out=tmp_path
        )
    assert list(tmp_path.iterdir()) == []


def test_logits_that_are_not_finite_are_an_error() -> None:
    head = LinearProbe(weight=np.full(192, np.nan), bias=0.0)
    with pytest.raises(DivergedError, match="24 logits of toy"):
        classify(random_encoder("vit_tiny", SIZE, 0), head, small("val"))


class Killed(BaseException):
    """Stands for a kill: nothing may catch it and carry on."""


def die(*_arguments: object, **_settings: object) -> None:
    raise Killed


@pytest.mark.parametrize("moment", ["classify", "save_tensors", "save_encoder", "write_json_atomic"])
def test_a_killed_run_is_not_taken_for_finished_and_can_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: str, moment: str
) -> None:
    train, val, settings = small("train", n=12), small("val", n=12), config(encoder=tiny)
    original = getattr(module, moment)
    with monkeypatch.context() as patch:
        # JSON is written twice, the result last.
        patch.setattr(module, moment, die if moment != "write_json_atomic" else dying_at(RESULT, original))
        with pytest.raises(Killed):
            train_supervised(train, val, config=settings, out=tmp_path)
    assert not (tmp_path / RESULT).exists()
    with pytest.raises(DataError, match="not a finished supervised run"):
        load_classifier(tmp_path)
    train_supervised(train, val, config=settings, out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", HEAD, "encoder.pt", RESULT}
    with pytest.raises(ConfigError, match="already holds a run"):
        train_supervised(train, val, config=settings, out=tmp_path)


def dying_at(name: str, original: Callable[..., None]) -> Callable[..., None]:
    def write(path: Path, value: Any) -> None:
        if path.name == name:
            raise Killed
        original(path, value)

    return write


def test_what_a_killed_run_left_does_not_lie_beside_a_new_one_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: str
) -> None:
    train, val = small("train", n=12), small("val", n=12)
    train_supervised(train, val, config=config(encoder=tiny), out=tmp_path)
    (tmp_path / RESULT).unlink()
    monkeypatch.setattr(module._Trainer, "train", die)
    with pytest.raises(Killed):
        train_supervised(train, val, config=config(encoder=tiny, seed=1), out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"method": "simclr"}')
    (tmp_path / "encoder.pt").write_bytes(b"weeks of work")
    with pytest.raises(ConfigError, match="already holds a run"):
        train_supervised(small("train"), small("val"), out=tmp_path)
    assert (tmp_path / "encoder.pt").read_bytes() == b"weeks of work"


def test_the_encoder_computes_in_the_precision_asked_for_and_the_head_in_float32() -> None:
    seen: dict[str, torch.dtype] = {}

    class Watched(Encoder):
        def __init__(self) -> None:
            super().__init__("watched", 8, 8, 3)
            self.mix = torch.nn.Conv2d(3, 3, 1)

        def feature_map(self, x: Tensor) -> Tensor:
            mixed: Tensor = self.mix(x)
            seen["encoder"] = mixed.dtype
            return mixed

    for precision, computed in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        logits = Classifier(Watched(), precision)(torch.zeros(2, 3, 8, 8))
        assert (seen["encoder"], logits.dtype, logits.shape) == (computed, torch.float32, (2,))
