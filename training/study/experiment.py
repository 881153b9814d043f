"""One experiment of a study: train or take an encoder, probe it, measure it, write the result.

    STUDY/<id>/             a run folder (`training.runs`)
    STUDY/<id>/result.json  everything that the report reads; written last
    STUDY/pretrained/       what several experiments share (`training.study.shared`)

An experiment without result.json is not finished, whatever else its folder holds, and is continued.

Shapes: N frames, V views of a frame, D features.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.durable import write_json_atomic
from serving.errors import DataError
from training import runs
from training.backbones import Encoder
from training.class_probe import ClassProbeConfig, fit_class_probe
from training.data.augment import View, ViewSpec, make_views
from training.data.imbalance import draw_subset
from training.data.pack import Pack
from training.data.pack_subset import select_frames
from training.features import FEATURES, cached_features
from training.label_free import measure_all
from training.label_free.intrinsic import IDEST_FEWEST
from training.loop import DivergedError, LoopOptions, pretrain
from training.multilabel_metrics import official_scores
from training.operating_points import DEFAULT
from training.probe import LabelledFrames, ProbeConfig, describe_pack, fit_probe, with_labels
from training.provenance import provenance
from training.study.evaluation import Scored, Verdicts, evaluate_experiment
from training.study.plan import Experiment, StudySettings, pretraining, start_of
from training.study.shared import alone_in, copy_run, forget_features, shared_folder
from training.study.supervised_scores import clear_run, train_and_score

RESULT = "result.json"
SCHEMA_VERSION = 1
# Frames and views that LiDAR sees, and frames that the other label-free metrics see.
LIDAR_FRAMES, LIDAR_VIEWS = 128, 8
LABEL_FREE_FRAMES = 2048
FEATURE_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """The packs of a study: training subsets are drawn from `train`; nothing is chosen on `test`.

    Sewer-ML's test labels are not public: a study on it has no `test`.
    """

    train: Pack
    val: Pack
    test: Pack | None = None

    @property
    def packs(self) -> dict[str, Pack]:
        """Those that there are, by split."""
        packs = {"train": self.train, "val": self.val, "test": self.test}
        return {split: pack for split, pack in packs.items() if pack is not None}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an experiment's encoder and classifier are worth; `encoder` None where there is none to look at."""

    evaluations: dict[str, Any]
    classes: dict[str, Any]
    label_free: dict[str, float | None]


def perform(
    experiment: Experiment,
    settings: StudySettings,
    data: StudyData,
    study: Path,
    *,
    initial: Mapping[str, Encoder],
    options: LoopOptions,
    command: str,
) -> dict[str, Any]:
    """Carry out one experiment, or continue it; returns what STUDY/<id>/result.json then holds.

    Args:
        initial: the encoders that `settings.initial` names.

    Raises:
        DataError: the training split cannot give the subset, or a fine-tuning's start is missing.
    """
    started = time.monotonic()
    folder = study / experiment.id
    rows, drawn = training_rows(data.train, experiment, settings)
    train = select_frames(data.train, rows, subset=drawn)
    status, pretrained = "finished", None
    measured = Measured(evaluations={}, classes={}, label_free={})
    try:
        if experiment.kind in ("supervised", "finetuned"):
            start = _start(experiment, study, initial)
            scored, verdicts = train_and_score(
                data.packs | {"train": train}, experiment, settings, start, folder,
                device=options.device, command=command,
            )  # fmt: skip
            measured = Measured(evaluations=evaluate_experiment(scored, verdicts), classes={}, label_free={})
        else:
            if experiment.kind == "ssl":
                if settings.pretrain_on == "split":
                    shared = shared_folder(study, experiment)
                    with alone_in(shared):
                        pretrained = _pretrain(experiment, settings, data.train, shared, initial, options, command)
                    copy_run(shared, folder)
                else:
                    pretrained = _pretrain(experiment, settings, train, folder, initial, options, command)
                status = pretrained.pop("status")
            else:
                _write_untrained(experiment, settings, train.size, folder, initial, command)
            measured = _probe(experiment, settings, train, rows, data, study, options.device)
    except DivergedError:
        status = "diverged"
    result = {
        "schema_version": SCHEMA_VERSION,
        "id": experiment.id,
        "kind": experiment.kind,
        "method": experiment.method,
        "encoder": experiment.encoder,
        "optim": settings.optim if experiment.kind == "ssl" else None,
        "views": settings.views if experiment.kind == "ssl" else None,
        "defect_proportion": experiment.defect_proportion,
        "seed": experiment.seed,
        "status": status,
        "train": describe_pack(train),
        "pretraining": pretrained,
        "evaluations": measured.evaluations,
        "classes": measured.classes,
        "label_free": measured.label_free,
        "wall_time_s": time.monotonic() - started,
        **provenance(command),
    }
    write_json_atomic(folder / RESULT, result)
    _tidy(folder)
    forget_features(study, experiment, settings, RESULT)
    return result


def training_rows(
    pack: Pack, experiment: Experiment, settings: StudySettings
) -> tuple[NDArray[np.int64], dict[str, Any] | None]:
    """Which frames of the split an experiment trains on, and how they were drawn (None: all that are labelled).

    They are the same for all experiments of a cell; unlabelled ones are never among them.

    Raises:
        DataError: the split cannot give them.
    """
    labels = np.asarray(pack.labels)
    if experiment.defect_proportion is None and settings.frames is None:
        return np.flatnonzero(labels >= 0), None
    share = experiment.defect_proportion
    if share is None:
        share = float(np.mean(labels[labels >= 0] == 1))
    drawn = draw_subset(labels, defect_proportion=share, seed=experiment.seed, frames=settings.frames)
    return drawn.indices, drawn.record()


def _pretrain(
    experiment: Experiment,
    settings: StudySettings,
    train: Pack,
    folder: Path,
    initial: Mapping[str, Encoder],
    options: LoopOptions,
    command: str,
) -> dict[str, Any]:
    config = pretraining(experiment, settings, train.size)
    if not _is_pretrained(folder):
        resume = (folder / runs.CHECKPOINT).is_file()
        if not resume:
            # Killed before its first checkpoint: nothing in there is worth keeping.
            clear_run(folder)
        start = initial.get(experiment.encoder)
        pretrain(config, train, folder, options=options, initial=start, resume=resume, command=command)
    record = runs.read_json(folder / runs.RUN)
    kept = ("status", "wall_time_s", "frames_per_s", "loss", "rankme", "feature_std")
    view_size = config.method_config.views.views[0].size
    settings_record = {"epochs": config.epochs, "batch_size": config.batch_size, "view_size": view_size}
    return settings_record | {key: record[key] for key in kept}


def _is_pretrained(folder: Path) -> bool:
    """Whether pretraining ended; its record is written after its encoder, and a kill may come between."""
    ended = (folder / runs.ENCODER).is_file() and (folder / runs.RUN).is_file()
    return ended and runs.read_json(folder / runs.RUN).get("status") in ("finished", "collapsed")


def _write_untrained(
    experiment: Experiment,
    settings: StudySettings,
    image_size: int,
    folder: Path,
    initial: Mapping[str, Encoder],
    command: str,
) -> None:
    """A run folder whose encoder was not trained here: drawn at random, or the initial one."""
    if experiment.kind == "transferred":
        encoder = initial[experiment.encoder]
    else:
        encoder = runs.random_encoder(experiment.encoder, image_size, experiment.seed)
    config = {
        "method": experiment.kind,
        "encoder": experiment.encoder,
        "image_size": image_size,
        "seed": experiment.seed,
        "initial_encoder": dict(settings.initial).get(experiment.encoder) if experiment.kind == "transferred" else None,
    }
    write_json_atomic(folder / runs.CONFIG, config)
    runs.save_encoder(folder, encoder)
    runs.update_run(folder, status="finished", **provenance(command))


def _start(experiment: Experiment, study: Path, initial: Mapping[str, Encoder]) -> Encoder | None:
    """The encoder that supervised training starts from; None for freshly drawn weights."""
    if experiment.kind == "supervised":
        return initial.get(experiment.encoder)
    source = study / start_of(experiment).id
    if (source / RESULT).is_file() and runs.read_json(source / RESULT)["status"] == "diverged":
        raise DivergedError(f"{experiment.id} starts from the encoder of {source}, which diverged and left none")
    if not (source / runs.ENCODER).is_file():
        raise DataError(f"{experiment.id} starts from the encoder of {source}, which is not there: run that first")
    return runs.load_encoder(source)[0]


def _probe(
    experiment: Experiment,
    settings: StudySettings,
    train: Pack,
    rows: NDArray[np.int64],
    data: StudyData,
    study: Path,
    device: str,
) -> Measured:
    """Probe the encoder in the experiment's folder; `train` are the frames of the training split at `rows`."""
    encoder, _ = runs.load_encoder(study / experiment.id)
    packs = data.packs | {"train": train}
    if settings.pretrain_on == "split":
        home = shared_folder(study, experiment)
        with alone_in(home):
            features = {name: cached_features(home, encoder, pack, device=device) for name, pack in data.packs.items()}
        features["train"] = features["train"][rows]
    else:
        home = study / experiment.id
        features = {name: cached_features(home, encoder, pack, device=device) for name, pack in packs.items()}
    parts = {name: with_labels(features[name], pack) for name, pack in packs.items()}
    fit = fit_probe(parts["train"], ProbeConfig(calibration_share=settings.calibration_share, seed=experiment.seed))
    scored = {
        name: Scored(logits=fit.linear.logits(part.features), labels=part.labels, classes=part.classes)
        for name, part in parts.items()
    }
    verdicts = Verdicts(platt=fit.platt, threshold=fit.thresholds[DEFAULT].value)
    return Measured(
        evaluations=evaluate_experiment(scored, verdicts),
        classes=_class_scores(parts, experiment, settings),
        label_free=_label_free(encoder, train, parts["train"], experiment, settings, device),
    )


def _class_scores(
    parts: Mapping[str, LabelledFrames], experiment: Experiment, settings: StudySettings
) -> dict[str, Any]:
    """Official multi-label scores of class probes; empty where the classes are not known, or all too rare to learn."""
    train = parts["train"]
    if not train.classes.any():
        return {}
    config = ClassProbeConfig(held_out_share=settings.calibration_share, seed=experiment.seed)
    try:
        probe = fit_class_probe(train.features, train.classes, train.groups, config=config)
    except DataError:
        # Too few examples of every class, as where few of the frames are defects.
        return {}
    scores = {
        f"{name}_natural": official_scores(parts[name].classes, probe.scores(parts[name].features)).to_json()
        for name in parts
        if name != "train"
    }
    return {name: {**values, "absent": list(probe.absent)} for name, values in scores.items()}


def _label_free(
    encoder: Encoder,
    train: Pack,
    labelled: LabelledFrames,
    experiment: Experiment,
    settings: StudySettings,
    device: str,
) -> dict[str, float | None]:
    """Every label-free metric of the training frames' embeddings; none where they are too few to measure on."""
    if len(labelled.features) < IDEST_FEWEST:
        return {}
    rng = np.random.default_rng((experiment.seed, 2))
    chosen = rng.permutation(len(labelled.features))[:LABEL_FREE_FRAMES]
    views = _view_embeddings(encoder, train, np.sort(rng.permutation(len(train))[:LIDAR_FRAMES]), settings, device)
    generator = torch.Generator().manual_seed(experiment.seed)
    embeddings = torch.from_numpy(np.array(labelled.features[np.sort(chosen)]))
    measured = measure_all(embeddings, generator=generator, views=views)
    # JSON knows no NaN.
    return {name: value if np.isfinite(value) else None for name, value in measured.items()}


@torch.inference_mode()
def _view_embeddings(
    encoder: Encoder, train: Pack, rows: np.ndarray[Any, np.dtype[np.int64]], settings: StudySettings, device: str
) -> Tensor:
    """float32 [n, V, D] on the CPU: embeddings of SimCLR's views, whatever the method was trained on."""
    size = settings.view_size or train.size
    spec = ViewSpec(views=(View(size=size, count=LIDAR_VIEWS),))
    frames = torch.from_numpy(np.array(train.frames[rows])).to(device)
    views = make_views(frames, spec, torch.Generator().manual_seed(0))
    home = next(encoder.parameters()).device
    encoder.eval().to(device)
    embedded = torch.stack([encoder(view).float().cpu() for view in views], dim=1)
    encoder.to(home)
    return embedded


def _tidy(folder: Path) -> None:
    """Drop what can be made again from the encoder and is large, and what a kill left half-written."""
    (folder / runs.CHECKPOINT).unlink(missing_ok=True)
    for partial in folder.glob(".*.partial"):
        partial.unlink()
    shutil.rmtree(folder / FEATURES, ignore_errors=True)
