"""From packs to probes: the encoder to start from, pretraining on the footage, a probe on each encoder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serving.errors import DataError
from training import runs
from training.backbones import Encoder
from training.config import Precision, PretrainConfig
from training.data.augment import make_views
from training.data.pack import Pack
from training.features import encoder_digest
from training.loop import LoopOptions, pretrain
from training.probe import FittedProbe, ProbeConfig, load_probe, run_probe
from training.recipes import RECIPES
from training.retrain.estimate import Estimate, choose_batch, choose_epochs
from training.retrain.job import Job
from training.retrain.prepare import PRETRAIN
from training.retrain.release import first_divisible
from training.retrain.start import Start, write_initial

INITIAL, RUN = "initial", "run"
SETTLE_FRAMES = 256
SETTLE_BATCH = 64
# ResNets are shown smaller views than frames, as the shipped pair was: 64 px of 112.
VIEW_SHARE = 4 / 7
SMALLEST_VIEW = 32
CHECKPOINT_MINUTES = 2.0


def recipe(
    start: Start,
    batch_size: int,
    precision: Precision,
    *,
    seed: int = 0,
    epochs: int = 1,
    initial_encoder: str | None = None,
) -> PretrainConfig:
    """The config of pretraining on footage: the start's method, in the form for short runs and small defects."""
    size = view = start.image_size
    if start.encoder == "resnet18":
        view = min(size, max(SMALLEST_VIEW, round(VIEW_SHARE * size / 8) * 8))
    return RECIPES[start.method, start.encoder](
        image_size=size,
        optim="short",
        views="inspection",
        view_size=view,
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
        precision=precision,
        initial_encoder=initial_encoder,
    )


def make_initial(job: Job, pack: Pack) -> Encoder | None:
    """The encoder that training starts from, as the run folder OUT/initial; None from scratch."""
    if job.start.kind == "scratch":
        return None
    run = job.out / INITIAL

    def work() -> dict[str, Any]:
        shutil.rmtree(run, ignore_errors=True)
        return {"digest": encoder_digest(write_initial(job.start, _views(job, pack), run))}

    inputs = {"start": job.start.to_json(), "pack": pack.digest}
    job.stages.run("initial", inputs=inputs, work=work, amiss=lambda result: _encoder_amiss(run, result))
    return runs.load_encoder(run)[0]


def _views(job: Job, pack: Pack) -> Iterator[Tensor]:
    """What training will show of some frames, evenly spread over the pack."""
    views = recipe(job.start, 2, "fp32").method_config.views
    chosen = np.linspace(0, len(pack) - 1, min(SETTLE_FRAMES, len(pack))).astype(np.int64)
    generator = torch.Generator().manual_seed(job.seed)
    for start in range(0, len(chosen), SETTLE_BATCH):
        frames = torch.from_numpy(np.array(pack.frames[chosen[start : start + SETTLE_BATCH]]))
        yield from make_views(frames, views, generator)


def pretrain_on(job: Job, pack: Pack, initial: Encoder | None, expected: Estimate) -> None:
    """Pretrain into OUT/run, from its last checkpoint if there is one of this very run."""
    run = job.out / RUN
    config = _settle_config(job, pack, initial, expected)

    def work() -> dict[str, Any]:
        resume = _can_go_on(run, config, pack)
        if not resume:
            shutil.rmtree(run, ignore_errors=True)
        options = LoopOptions(device=job.options.device, checkpoint_minutes=CHECKPOINT_MINUTES)
        summary = pretrain(
            config, pack, run, options=options, initial=initial, resume=resume, command=job.options.command
        )
        return {"digest": encoder_digest(runs.load_encoder(run)[0]), "status": summary.status}

    inputs = {"config": config.to_json(), "pack": pack.digest}
    result = job.stages.run("pretrain", inputs=inputs, work=work, amiss=lambda found: _encoder_amiss(run, found))
    if result["status"] == "collapsed":
        job.listener.say(
            "pretraining COLLAPSED: all frames have nearly the same embedding. Try another --method, or more footage"
        )


def _settle_config(job: Job, pack: Pack, initial: Encoder | None, expected: Estimate) -> PretrainConfig:
    """The run's config; what was measured for it the first time counts also when it goes on elsewhere."""
    asked = job.config
    digest = None if initial is None else encoder_digest(initial)

    def work() -> dict[str, Any]:
        batch = choose_batch(len(pack), asked.batch_size)
        epochs = choose_epochs(len(pack), batch, epochs=asked.epochs, minutes=asked.minutes, step_s=expected.step_s)
        config = recipe(job.start, batch, expected.precision, seed=job.seed, epochs=epochs, initial_encoder=digest)
        return config.to_json()

    inputs = {
        "pack": pack.digest,
        "start": job.start.to_json(),
        "initial": digest,
        "asked": [asked.batch_size, asked.epochs, asked.minutes, job.seed],
    }
    config = PretrainConfig.from_json(job.stages.run("recipe", inputs=inputs, work=work))
    steps = len(pack) // config.batch_size
    job.listener.say(
        f"{config.method} from {job.start.words}: {config.epochs} epochs of {steps} steps of {config.batch_size} frames"
    )
    return config


def _can_go_on(run: Path, config: PretrainConfig, pack: Pack) -> bool:
    """Whether `run` has a checkpoint of this config on this pack."""
    if not all((run / name).is_file() for name in (runs.CHECKPOINT, runs.CONFIG, runs.RUN)):
        return False
    same_pack = runs.read_json(run / runs.RUN).get("pack", {}).get("digest") == pack.digest
    return same_pack and runs.read_json(run / runs.CONFIG) == config.to_json()


def fit_probes(job: Job, packs: Mapping[str, Pack]) -> str:
    """Fit a probe on each encoder; returns the name of the run folder that goes on.

    That is the one that ranks val better: pretraining on little footage can do harm, and then the encoder as it was
    shipped, with a probe of its own, is the better one. The held-out frames have no say in it.
    """
    candidates = [RUN] if job.start.kind == "scratch" else [RUN, INITIAL]

    def work() -> dict[str, Any]:
        found = {name: _fit(job, name, packs) for name in candidates}
        # Of equals the first: it has seen this footage.
        return {"probes": found, "chosen": max(candidates, key=lambda name: float(found[name]["val_auroc"]))}

    def amiss(result: Mapping[str, Any]) -> str | None:
        for name, probe in result["probes"].items():
            try:
                if load_probe(job.out / name).record["probe_sha256"] != probe["sha256"]:
                    return f"the probe of {name} was fitted again"
            except (DataError, OSError) as error:
                return str(error)
        return None

    inputs = {
        "packs": {name: pack.digest for name, pack in packs.items() if name != PRETRAIN},
        "encoders": {name: encoder_digest(runs.load_encoder(job.out / name)[0]) for name in candidates},
    }
    result = job.stages.run("probe", inputs=inputs, work=work, amiss=amiss)
    aurocs = {name: probe["val_auroc"] for name, probe in result["probes"].items()}
    if len(aurocs) > 1:
        goes_on = "the encoder as it was" if result["chosen"] == INITIAL else "the pretrained encoder"
        job.listener.say(
            f"AUROC on val: {aurocs[RUN]:.3f} after pretraining on the footage, {aurocs[INITIAL]:.3f} of "
            f"{job.start.words} as it was; {goes_on} goes on"
        )
    return str(result["chosen"])


def _fit(job: Job, name: str, packs: Mapping[str, Pack]) -> dict[str, Any]:
    def attempt(seed: int) -> FittedProbe:
        return run_probe(
            job.out / name,
            train=packs["train"],
            val=packs["val"],
            others={"held-out": packs["test"]},
            config=ProbeConfig(seed=seed),
            device=job.options.device,
            command=job.options.command,
        )

    fitted = first_divisible(attempt, job.seed)
    auroc = next(metric.value for metric in fitted.metrics if (metric.data, metric.name) == ("val", "auroc"))
    return {"val_auroc": auroc, "sha256": fitted.record["probe_sha256"]}


def _encoder_amiss(run: Path, result: Mapping[str, Any]) -> str | None:
    try:
        digest = encoder_digest(runs.load_encoder(run)[0])
    except DataError as error:
        return str(error)
    return None if digest == result["digest"] else f"{run / runs.ENCODER} was changed"
