"""One experiment: which frames it trains on, what its result says, and how it goes on after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_study import (
    OPTIONS,
    SIZE,
    memory_data,
    memory_pack,
    register_tiny,
    settings,
    simclr_tiny,
    without_clocks,
)

from serving.errors import ConfigError, DataError
from training import loop, runs
from training.backbones import Encoder
from training.data.classes import CLASS_CODES
from training.data.pack import Pack
from training.data.pack_subset import select_frames
from training.features import FEATURES, cached_features, encoder_digest
from training.label_free import EXPECTED_SIGN
from training.loop import DivergedError
from training.recipes import RECIPES
from training.study import experiment as module
from training.study.experiment import RESULT, StudyData, perform, training_rows
from training.study.plan import LOCK, Experiment, StudySettings, experiments
from training.study.shared import SHARED, shared_folder

DATA = memory_data()
KEYS = {
    *("schema_version", "id", "kind", "method", "encoder", "optim", "views", "defect_proportion", "seed", "status"),
    *("train", "pretraining", "evaluations", "classes", "label_free", "wall_time_s"),
    *("command", "git_revision", "packages", "hardware"),
}
THRESHOLD_KEYS = {
    *("threshold", "precision", "recall", "specificity", "f1", "f2", "f1_normal", "f2_ciw_binary"),
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch.setitem)


def tiny_experiment(kind: Any, *, share: float | None = 0.15, seed: int = 0) -> Experiment:
    method = {"ssl": "simclr", "finetuned": "finetuned_simclr"}.get(kind, kind)
    return Experiment(kind=kind, method=method, encoder="tiny", defect_proportion=share, seed=seed)


def carry_out(
    experiment: Experiment,
    study: Path,
    *,
    data: StudyData = DATA,
    plan: StudySettings | None = None,
    initial: dict[str, Encoder] | None = None,
) -> dict[str, Any]:
    result = perform(
        experiment, plan or settings(), data, study, initial=initial or {}, options=OPTIONS, command="typed"
    )
    written: dict[str, Any] = json.loads((study / experiment.id / RESULT).read_text())
    assert written == result
    return result


def training_subset(pack: Pack, experiment: Experiment, plan: StudySettings) -> Pack:
    rows, drawn = training_rows(pack, experiment, plan)
    return select_frames(pack, rows, subset=drawn)


# ---- which frames -----------------------------------------------------------------------------------------------


def test_subsets_have_their_share_of_defects_and_are_nested() -> None:
    pack = memory_pack("train", n=600, size=8, unlabelled=20)
    normals = int(np.count_nonzero(pack.labels == 0))
    drawn = {
        share: training_subset(pack, tiny_experiment("ssl", share=share, seed=2), settings())
        for share in (0.01, 0.05, 0.15)
    }
    for share, subset in drawn.items():
        defects = int(np.count_nonzero(subset.labels == 1))
        assert defects == round(share * normals / (1 - share))
        assert len(subset) == normals + defects
        assert subset.index["subset"]["n_defect"] == defects
    few, more, most = (set(subset.names) for subset in drawn.values())
    assert few < more < most


def test_the_size_asked_for_is_the_subsets_and_keeps_the_share() -> None:
    pack = memory_pack("train", n=600, size=8)
    plan = settings(frames=200)
    subset = training_subset(pack, tiny_experiment("ssl", share=0.05), plan)
    assert (len(subset), int(np.count_nonzero(subset.labels == 1))) == (200, 10)
    # The whole split's share is kept where only the size is asked for.
    whole = training_subset(pack, tiny_experiment("ssl", share=None), plan)
    natural = np.count_nonzero(pack.labels == 1) / len(pack)
    assert (len(whole), int(np.count_nonzero(whole.labels == 1))) == (200, round(200 * natural))


def test_the_whole_split_leaves_out_unlabelled_frames_alone() -> None:
    pack = memory_pack("train", n=60, size=8, unlabelled=7)
    subset = training_subset(pack, tiny_experiment("ssl", share=None), settings())
    assert subset.names == pack.names[7:]


def test_the_frames_depend_on_the_seed_and_not_on_what_is_trained() -> None:
    cell = [training_subset(DATA.train, tiny_experiment(kind), settings()).digest for kind in ("ssl", "supervised")]
    other = training_subset(DATA.train, tiny_experiment("ssl", seed=1), settings()).digest
    assert len({*cell, other}) == 2


# ---- what comes out ---------------------------------------------------------------------------------------------


def test_a_self_supervised_result_says_everything(tmp_path: Path) -> None:
    result = carry_out(tiny_experiment("ssl"), tmp_path)
    assert set(result) == KEYS
    assert (result["schema_version"], result["id"], result["kind"]) == (1, "simclr-tiny-p15-s0", "ssl")
    assert (result["optim"], result["views"]) == ("paper", "published")
    assert result["status"] in ("finished", "collapsed")
    assert result["train"]["defect"] == round(0.15 * result["train"]["normal"] / 0.85)
    assert set(result["pretraining"]) == {
        *("epochs", "batch_size", "view_size", "wall_time_s", "frames_per_s", "loss", "rankme", "feature_std")
    }
    assert (result["pretraining"]["batch_size"], result["pretraining"]["view_size"]) == (16, SIZE)
    # 60 frames in val are too few for one defect in a hundred.
    assert set(result["evaluations"]) == {
        *("train", "val_p2", "val_p5", "val_p15", "val_balanced", "val_natural", "test_balanced", "test_natural")
    }
    for evaluation in result["evaluations"].values():
        assert set(evaluation) == {"n", "n_defect", "auroc", "average_precision", "published", "chosen"}
        assert set(evaluation["published"]) == set(evaluation["chosen"]) == THRESHOLD_KEYS
    assert set(result["label_free"]) == set(EXPECTED_SIGN)
    assert result["command"] == "typed"


def test_pretraining_on_the_whole_split_is_done_once_for_all_proportions(tmp_path: Path) -> None:
    plan = replace(settings(), pretrain_on="split")
    first = carry_out(tiny_experiment("ssl", share=0.15), tmp_path, plan=plan)
    shared = tmp_path / SHARED / "simclr-tiny-s0"
    written = (shared / runs.ENCODER).stat().st_mtime_ns
    second = carry_out(tiny_experiment("ssl", share=0.05), tmp_path, plan=plan)
    assert (shared / runs.ENCODER).stat().st_mtime_ns == written
    assert first["pretraining"] == second["pretraining"]
    assert first["train"]["digest"] != second["train"]["digest"]
    assert runs.read_json(shared / runs.RUN)["pack"]["digest"] == DATA.train.digest
    folders = [shared, *(tmp_path / result["id"] for result in (first, second))]
    assert len({encoder_digest(runs.load_encoder(folder)[0]) for folder in folders}) == 1


@pytest.mark.parametrize("kind", ["ssl", "random"])
def test_frames_of_the_whole_split_are_encoded_once_for_all_proportions(tmp_path: Path, kind: str) -> None:
    plan = replace(settings(), pretrain_on="split", proportions=(0.15, 0.05))
    mine = [each for each in experiments(plan) if each.kind == kind]
    features = shared_folder(tmp_path, mine[0]) / FEATURES
    first = carry_out(mine[0], tmp_path, plan=plan)
    written = {path: path.stat().st_mtime_ns for path in features.iterdir()}
    assert len(written) == len(DATA.packs)
    # What is measured is what an encoder of its own would have given.
    subset = training_subset(DATA.train, mine[0], plan)
    own = cached_features(tmp_path / "own", runs.load_encoder(tmp_path / mine[0].id)[0], subset)
    shared = np.load(next(path for path in written if DATA.train.digest[:16] in path.name))
    np.testing.assert_allclose(shared[training_rows(DATA.train, mine[0], plan)[0]], own, atol=1e-5)
    assert first["evaluations"]["train"]["n"] == len(subset)
    carry_out(mine[1], tmp_path, plan=plan)
    assert not features.exists(), "nobody needs them any more"


def test_features_stay_while_another_proportion_needs_them(tmp_path: Path) -> None:
    plan = replace(settings(), pretrain_on="split", proportions=(0.15, 0.05, 0.02))
    mine = [each for each in experiments(plan) if each.kind == "random"]
    carry_out(mine[0], tmp_path, plan=plan)
    features = tmp_path / SHARED / "random-tiny-s0" / FEATURES
    written = {path: path.stat().st_mtime_ns for path in features.iterdir()}
    carry_out(mine[1], tmp_path, plan=plan)
    assert {path: path.stat().st_mtime_ns for path in features.iterdir()} == written


def test_a_run_folder_keeps_the_encoder_and_nothing_large_beside_it(tmp_path: Path) -> None:
    experiment = tiny_experiment("ssl")
    folder = tmp_path / experiment.id
    folder.mkdir()
    (folder / ".checkpoint.pt.ab12.partial").write_bytes(b"a kill left this")
    carry_out(experiment, tmp_path)
    assert {path.name for path in folder.iterdir()} == {*(runs.CONFIG, runs.RUN, runs.METRICS, runs.ENCODER, RESULT)}
    assert runs.load_encoder(folder)[1]["method"] == "simclr"


def test_the_floor_is_an_untrained_encoder_of_that_seed(tmp_path: Path) -> None:
    experiment = tiny_experiment("random", seed=3)
    result = carry_out(experiment, tmp_path)
    assert (result["pretraining"], result["optim"], result["views"]) == (None, None, None)
    found, config = runs.load_encoder(tmp_path / experiment.id)
    assert encoder_digest(found) == encoder_digest(runs.random_encoder("tiny", SIZE, 3))
    assert config["method"] == "random"
    assert set(result["label_free"]) == set(EXPECTED_SIGN)


def test_what_starts_from_an_initial_encoder_does(tmp_path: Path) -> None:
    initial = runs.random_encoder("tiny", SIZE, 7)
    digest = encoder_digest(initial)
    plan = settings(initial=(("tiny", digest),), baselines=("random", "transferred", "supervised"))
    for experiment in experiments(plan):
        carry_out(experiment, tmp_path, plan=plan, initial={"tiny": initial})
    found = {e.kind: runs.load_encoder(tmp_path / e.id) for e in experiments(plan)}
    assert encoder_digest(found["transferred"][0]) == digest
    assert encoder_digest(found["random"][0]) == encoder_digest(runs.random_encoder("tiny", SIZE, 0))
    starts = {kind: config["initial_encoder"] for kind, (_, config) in found.items() if kind != "random"}
    assert starts == {"transferred": digest, "ssl": digest, "supervised": digest}


def test_a_fine_tuning_starts_from_its_cells_encoder(tmp_path: Path) -> None:
    start, tuned = tiny_experiment("ssl"), tiny_experiment("finetuned")
    with pytest.raises(DataError, match="which is not there: run that first"):
        carry_out(tuned, tmp_path)
    carry_out(start, tmp_path)
    result = carry_out(tuned, tmp_path)
    config = runs.load_encoder(tmp_path / tuned.id)[1]
    assert config["initial_encoder"] == encoder_digest(runs.load_encoder(tmp_path / start.id)[0])
    assert (result["pretraining"], result["classes"], result["label_free"]) == (None, {}, {})
    assert result["train"]["digest"] == json.loads((tmp_path / start.id / RESULT).read_text())["train"]["digest"]


def test_class_scores_are_there_where_classes_can_be_learnt(tmp_path: Path) -> None:
    experiment = tiny_experiment("random", share=None)
    classes = carry_out(experiment, tmp_path)["classes"]
    assert set(classes) == {"val_natural", "test_natural"}
    assert {"f2_ciw", "f1_normal", "macro_f1"} <= set(classes["val_natural"])
    assert set(classes["val_natural"]["absent"]) == set(CLASS_CODES) - {"RB", "RO"}
    # With 15 % of defects no class has ten frames.
    assert carry_out(tiny_experiment("random"), tmp_path)["classes"] == {}
    unknown = replace(DATA, train=replace(DATA.train, classes=np.zeros_like(DATA.train.classes)))
    assert carry_out(tiny_experiment("random", share=None), tmp_path / "unknown", data=unknown)["classes"] == {}


def test_frames_too_few_for_label_free_metrics_are_no_error(tmp_path: Path) -> None:
    plan = settings(frames=30)
    assert carry_out(tiny_experiment("random", share=0.5), tmp_path, plan=plan)["label_free"] == {}


def test_the_same_experiment_gives_the_same_result(tmp_path: Path) -> None:
    first, second = (carry_out(tiny_experiment("ssl"), tmp_path / name) for name in ("a", "b"))
    assert without_clocks(first) == without_clocks(second)


# ---- what goes wrong --------------------------------------------------------------------------------------------


def test_a_loss_that_explodes_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absurd(**run: Any) -> Any:
        config = simclr_tiny(**run)
        return replace(config, optim=replace(config.optim, lr=1e20))

    monkeypatch.setitem(RECIPES, ("simclr", "tiny"), absurd)
    result = carry_out(tiny_experiment("ssl"), tmp_path)
    assert set(result) == KEYS
    assert (result["status"], result["pretraining"]) == ("diverged", None)
    assert result["evaluations"] == result["classes"] == result["label_free"] == {}
    assert result["train"]["defect"] > 0
    tuned = carry_out(tiny_experiment("finetuned"), tmp_path)
    assert (tuned["status"], tuned["evaluations"]) == ("diverged", {}), "what starts from nothing comes to nothing"


def test_weights_that_explode_in_the_last_step_are_a_divergence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[..., Any] = loop._Loop.train_step

    def exploding(self: Any, frames: torch.Tensor) -> Any:
        result = original(self, frames)
        if self.step == self.total_steps:
            self.method.encoder.conv.weight.data.fill_(float("nan"))
        return result

    monkeypatch.setattr(loop._Loop, "train_step", exploding)
    assert carry_out(tiny_experiment("ssl"), tmp_path)["status"] == "diverged"


def test_a_supervised_run_that_explodes_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(*_arguments: Any, **_options: Any) -> Any:
        raise DivergedError("the loss is nan")

    monkeypatch.setattr(module, "train_and_score", diverging)
    result = carry_out(tiny_experiment("supervised"), tmp_path)
    assert (result["status"], result["evaluations"]) == ("diverged", {})


def test_collapsed_runs_are_measured_and_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "is_collapsed", lambda **_found: True)
    result = carry_out(tiny_experiment("ssl"), tmp_path)
    assert result["status"] == "collapsed"
    assert "val_natural" in result["evaluations"]


def test_what_a_split_cannot_give_is_said(tmp_path: Path) -> None:
    few = replace(DATA, train=memory_pack("train", n=60))
    with pytest.raises(DataError, match=r"a defect proportion of 0.01 would take 0 defect and \d+ normal frames"):
        carry_out(tiny_experiment("ssl", share=0.01), tmp_path, data=few)
    with pytest.raises(DataError, match="30 defect and 170 normal frames are needed"):
        carry_out(tiny_experiment("ssl"), tmp_path, plan=settings(frames=200))
    with pytest.raises(ConfigError, match="frames, fewer than a batch of 1024"):
        carry_out(tiny_experiment("ssl"), tmp_path, plan=settings(batch_size=1024))
    assert not list(tmp_path.rglob(RESULT))


# ---- kills ------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill: nothing may catch it and carry on."""


def kill(*_arguments: Any, **_options: Any) -> Any:
    raise Killed


@pytest.mark.parametrize(
    ("kind", "owner", "name"),
    [
        # Between the encoder and the record of the run; with all features computed; before the result is written.
        ("ssl", loop, "save_encoder"),
        ("random", runs, "save_encoder"),
        ("ssl", module, "fit_probe"),
        ("random", module, "measure_all"),
        ("supervised", module, "evaluate_experiment"),
        ("ssl", module, "write_json_atomic"),
    ],
)
def test_a_killed_experiment_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, owner: Any, name: str
) -> None:
    experiment = tiny_experiment(kind)
    expected = carry_out(experiment, tmp_path / "straight")
    original = getattr(owner, name)

    def dying(*arguments: Any, **options: Any) -> Any:
        if name == "save_encoder":
            original(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(Killed):
            carry_out(experiment, tmp_path / "killed")
    assert not (tmp_path / "killed" / experiment.id / RESULT).exists()
    assert without_clocks(carry_out(experiment, tmp_path / "killed")) == without_clocks(expected)


def test_pretraining_goes_on_from_its_checkpoint_and_not_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, experiment = settings(epochs=3), tiny_experiment("ssl")
    expected = carry_out(experiment, tmp_path / "straight", plan=plan)
    original: Callable[..., Any] = loop._Loop._train_epoch

    def dying(self: Any, advance: Any) -> bool:
        # Two epochs are saved.
        return original(self, advance) if self.step < 2 * self.steps_per_epoch else kill()

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_train_epoch", dying)
        with pytest.raises(Killed):
            carry_out(experiment, tmp_path / "killed", plan=plan)
    result = carry_out(experiment, tmp_path / "killed", plan=plan)
    run = runs.read_json(tmp_path / "killed" / experiment.id / runs.RUN)
    assert run["session_first_step"] == 2 * run["total_steps"] // 3
    assert without_clocks(result) == without_clocks(expected)


def test_what_was_killed_before_its_first_checkpoint_starts_anew(tmp_path: Path) -> None:
    experiment = tiny_experiment("ssl")
    folder = tmp_path / experiment.id
    folder.mkdir()
    (folder / LOCK).touch()
    (folder / runs.CONFIG).write_text("{")
    (folder / runs.METRICS).write_text("half a li")
    assert carry_out(experiment, tmp_path)["status"] in ("finished", "collapsed")
    assert (folder / LOCK).exists()
