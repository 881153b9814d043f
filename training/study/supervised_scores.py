"""Supervised and fine-tuned experiments: train end to end, and let the trained head give the logits.

As for a probe, part of the training inspections is kept from training, to calibrate and to place the threshold.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.backbones import Encoder
from training.calibration import UncalibratableError, fit_platt, flat_platt
from training.data.pack import Pack
from training.data.pack_subset import select_frames
from training.metrics import group_ids
from training.operating_points import DEFAULT, choose_thresholds
from training.probe import hold_out_groups
from training.study.evaluation import Scored, Verdicts
from training.study.plan import LOCK, Experiment, StudySettings
from training.supervised import RESULT, SupervisedConfig, classify, load_classifier, train_supervised


def train_and_score(
    packs: Mapping[str, Pack],
    experiment: Experiment,
    settings: StudySettings,
    initial: Encoder | None,
    folder: Path,
    *,
    device: str,
    command: str,
) -> tuple[dict[str, Scored], Verdicts]:
    """Train on the part of train that is not held out; score the labelled frames of every pack, by its name.

    Args:
        packs: train, the experiment's subset; val; and test, where there is one.
        train: labelled frames only.
        initial: the encoder to start from; freshly drawn weights for None.
        folder: the run folder; what an interrupted call left there is thrown away.

    Raises:
        IndivisibleError: the inspections cannot be divided into a part to train on and a part to calibrate on.
        DivergedError: the loss stopped being finite.
    """
    train = packs["train"]
    labels = np.asarray(train.labels)
    groups = group_ids(np.asarray(train.inspections), len(train))
    rng = np.random.default_rng([experiment.seed, 0])
    held_out = hold_out_groups(labels, groups, settings.calibration_share, rng)
    if not (folder / RESULT).is_file():
        clear_run(folder)
        config = SupervisedConfig(
            encoder=experiment.encoder,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            views=settings.views,
            view_size=settings.view_size,
            precision=settings.precision,
            seed=experiment.seed,
        )
        fitted = select_frames(train, np.flatnonzero(~held_out))
        train_supervised(
            fitted, packs["val"], config=config, initial=initial, device=device, out=folder, command=command
        )
    encoder, head = load_classifier(folder)
    scored = {name: _score(classify(encoder, head, pack, device=device), pack) for name, pack in packs.items()}
    return scored, _place(scored["train"].take(np.flatnonzero(held_out)))


def _score(logits: NDArray[np.float64], pack: Pack) -> Scored:
    known = np.flatnonzero(np.asarray(pack.labels) >= 0)
    return Scored(logits=logits[known], labels=np.asarray(pack.labels)[known], classes=np.asarray(pack.classes)[known])


def _place(held_out: Scored) -> Verdicts:
    """Calibration and threshold from the held-out frames."""
    try:
        platt = fit_platt(held_out.labels, held_out.logits)
    except UncalibratableError:
        platt = flat_platt(held_out.labels, held_out.logits)
    return Verdicts(platt=platt, threshold=choose_thresholds(held_out.labels, held_out.logits, platt)[DEFAULT].value)


def clear_run(folder: Path) -> None:
    """Empty a run folder of what an interrupted run left; the lock of whoever works on it stays."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
