"""How long experiments will take on this machine, from a few timed steps of each kind.

    STUDY/throughput.json    frames/s of training and of encoding by method and encoder, and the hardware

The estimate counts training, and encoding of train, val and test; fits of probes come on top, some seconds each.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from serving.durable import write_json_atomic
from serving.errors import DataError
from training import runs
from training.backbones import build_encoder, seeded_init
from training.data.augment import make_views
from training.data.normalise import normalise
from training.methods import METHODS
from training.optim import build_optimizer
from training.precision import forward_in
from training.provenance import hardware
from training.study.experiment import training_rows
from training.study.plan import Experiment, method_on, pretraining
from training.study.shared import shared_folder
from training.study.study_folder import Study

THROUGHPUT = "throughput.json"
WARMUP_STEPS, TIMED_STEPS = 1, 2
# Probes, label-free metrics and files.
OVERHEAD_S = 5.0


def estimate_s(study: Study, device: str) -> dict[str, float]:
    """Seconds of each experiment that was asked for, by its id, as measured here or earlier on such hardware."""
    rates = _known_rates(study.folder, device)
    sizes: dict[tuple[float | None, int], int] = {}
    found = {}
    shared = {
        shared_folder(study.folder, each) for each in study.planned if study.is_done(each) and _shares(study, each)
    }
    for experiment in study.planned:
        if not study.is_asked_for(experiment):
            continue
        cell = (experiment.defect_proportion, experiment.seed)
        if cell not in sizes:
            sizes[cell] = _subset_size(study, experiment)
        measured_on = sum(len(pack) for split, pack in study.data.packs.items() if split != "train")
        encoded, trained = sizes[cell] + measured_on, sizes[cell]
        if _shares(study, experiment):
            # The first of those that share an encoder has all of the cost.
            encoder = shared_folder(study.folder, experiment)
            whole = 0 if encoder in shared else len(study.data.train)
            encoded, trained = whole and whole + measured_on, whole
            shared.add(encoder)
        found[experiment.id] = _seconds(experiment, study, rates, encoded, trained, device)
    write_json_atomic(study.folder / THROUGHPUT, rates)
    return found


def _shares(study: Study, experiment: Experiment) -> bool:
    """Whether its encoder, and what that says of the split, serve several proportions."""
    return study.settings.pretrain_on == "split" and experiment.kind not in ("supervised", "finetuned")


def _subset_size(study: Study, experiment: Experiment) -> int:
    """Frames that it trains on; 0 where the split cannot give them, which it will say itself when its turn comes."""
    try:
        return len(training_rows(study.data.train, experiment, study.settings)[0])
    except DataError:
        return 0


def _known_rates(folder: Path, device: str) -> dict[str, Any]:
    here = {"hardware": hardware(), "device": device, "frames_per_s": {}}
    path = folder / THROUGHPUT
    if path.is_file():
        known = runs.read_json(path)
        if {key: known.get(key) for key in ("hardware", "device")} == {
            key: here[key] for key in ("hardware", "device")
        }:
            return known
    return here


def _seconds(
    experiment: Experiment, study: Study, rates: dict[str, Any], encoded: int, trained: int, device: str
) -> float:
    """`encoded` frames pass the encoder once, `trained` ones are trained on in each epoch."""
    encoder = experiment.encoder
    per_s: dict[str, float] = rates["frames_per_s"]
    encoding = f"encode {encoder}"
    if encoding not in per_s:
        per_s[encoding] = _encoding_rate(study, encoder, device)
    seconds = OVERHEAD_S + encoded / per_s[encoding]
    if experiment.kind in ("random", "transferred"):
        return seconds
    # A supervised step is one pass over one view: about a masked one's cost without the mask.
    method = experiment.method
    if experiment.kind != "ssl":
        method = str(method_on("simclr", encoder))
    training = f"train {method} {encoder}"
    if training not in per_s:
        per_s[training] = _training_rate(study, Experiment(
            kind="ssl", method=method, encoder=encoder, defect_proportion=None, seed=0
        ), device)  # fmt: skip
    share = 1.0 if experiment.kind == "ssl" else 0.5
    return seconds + share * trained * study.settings.epochs / per_s[training]


def _training_rate(study: Study, experiment: Experiment, device: str) -> float:
    config = pretraining(experiment, study.settings, study.data.train.size)
    with seeded_init(0):
        method = METHODS[config.method](
            build_encoder(config.encoder, image_size=config.image_size), config.method_config
        )
    method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch declares the two apart
    optimizer = build_optimizer(method, config.optim)
    rows = np.arange(config.batch_size) % len(study.data.train)
    frames = torch.from_numpy(np.array(study.data.train.frames[rows])).to(device)
    started = time.monotonic()
    for step in range(WARMUP_STEPS + TIMED_STEPS):
        if step == WARMUP_STEPS:
            _synchronise(device)
            started = time.monotonic()
        views = make_views(frames, method.views, torch.Generator().manual_seed(step))
        with forward_in(config.precision, device):
            loss = method.loss(views, 0.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # untyped in torch
        optimizer.step()
        method.after_step(0.0)
    _synchronise(device)
    return TIMED_STEPS * config.batch_size / (time.monotonic() - started)


@torch.inference_mode()
def _encoding_rate(study: Study, name: str, device: str) -> float:
    pack = study.data.train
    encoder = build_encoder(name, image_size=pack.size).eval().to(device)
    frames = torch.from_numpy(np.array(pack.frames[np.arange(128) % len(pack)])).to(device)
    images = normalise(frames).contiguous(memory_format=torch.channels_last)
    encoder(images)
    _synchronise(device)
    started = time.monotonic()
    encoder(images)
    _synchronise(device)
    return len(images) / (time.monotonic() - started)


def _synchronise(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
