"""The whole way, stage by stage; each is skipped if an earlier call of the same command has done it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from serving.errors import DataError
from training.config import Precision, PretrainConfig
from training.data.pack import Pack
from training.probe import load_probe
from training.retrain.begin import begin, digest_of
from training.retrain.compare import EXPORTED
from training.retrain.estimate import Estimate, estimate
from training.retrain.footage import find_footage
from training.retrain.job import Job, Listener, Outcome, RetrainConfig, RetrainOptions, Weighed
from training.retrain.labels import read_labels
from training.retrain.learn import fit_probes, make_initial, pretrain_on, recipe
from training.retrain.prepare import PRETRAIN, prepare
from training.retrain.release import Release, export_new, is_ours, promote
from training.retrain.split import TRAIN, check_enough
from training.retrain.stages import Stages, full_disk_explained, single_user
from training.retrain.start import Start
from training.retrain.table import count_labelled_inspections, resolve_labels
from training.retrain.weigh import weigh


def retrain(config: RetrainConfig, options: RetrainOptions, out: Path, listener: Listener) -> Outcome:
    """The whole way from footage to a new pair, in `out`; continues what an earlier call left there.

    Raises:
        ConfigError: the options contradict each other or what `out` was begun with.
        DataError: footage or labels cannot be used, or the disk is full; each names the remedy.
        ExportRefusedError: the new pair failed the gate of the export.
    """
    with full_disk_explained(out), single_user(out):
        job = _open(config, options, out, listener)
        expected = _expect(job)
        prepared = prepare(job)
        initial = make_initial(job, prepared.packs[PRETRAIN])
        pretrain_on(job, prepared.packs[PRETRAIN], initial, expected)
        chosen = fit_probes(job, prepared.packs)
        weighed = weigh(job, prepared, chosen)
        listener.compare(weighed)
        return _release(job, weighed, prepared.packs["val"])


def _open(config: RetrainConfig, options: RetrainOptions, out: Path, listener: Listener) -> Job:
    """Look at everything that is there, and stop at once if it cannot end well."""
    footage = find_footage([Path(path) for path in config.footage], leave_out=out)
    labels = resolve_labels(footage, [label for path in config.labels for label in read_labels(Path(path))])
    check_enough(count_labelled_inspections(footage, labels), within=config.split.within)
    begun = begin(config, options, out)
    job = Job(
        config=config,
        options=options,
        out=out,
        listener=listener,
        stages=Stages(out=out, begun=listener.begun, done=listener.done),
        footage=footage,
        labels=labels,
        start=Start(**begun["start"]),
        default=begun["default"],
    )
    labelled = sum(image.label >= 0 or image.name in labels for image in footage.images)
    listener.say(
        f"{len(footage.videos)} videos, {sum(video.name in labels for video in footage.videos)} of them with labels; "
        f"{len(footage.images)} images, {labelled} of them with labels"
    )
    job.report_broken(footage.broken)
    return job


def _expect(job: Job) -> Estimate:
    """Measure how long it will take, say so, and stop if the disk will not do."""
    config, footage = job.config, job.footage

    def config_of(batch_size: int, precision: Precision) -> PretrainConfig:
        return recipe(job.start, batch_size, precision)

    def work() -> dict[str, Any]:
        found = estimate(
            footage,
            frozenset(video.name for video in footage.videos if video.name in job.labels),
            config_of,
            every_s=config.every_s,
            train_share=config.split.shares[TRAIN],
            batch_size=config.batch_size,
            epochs=config.epochs,
            minutes=config.minutes,
            device=job.options.device,
        )
        return found.to_json()

    inputs = {
        "config": asdict(config),
        "footage": footage.digest,
        "labelled": digest_of(sorted(job.labels)),
        "start": job.start.to_json(),
        "device": job.options.device,
        "threads": torch.get_num_threads(),
    }
    expected = Estimate(**job.stages.run("estimate", inputs=inputs, work=work))
    job.listener.expect(expected, job.start)
    free = shutil.disk_usage(job.out).free
    there = sum(path.stat().st_size for path in job.out.rglob("*") if path.is_file())
    if expected.bytes_needed - there > free:
        raise DataError(
            f"frames and packs take about {expected.bytes_needed / 2**30:.1f} GiB, and the disk of {job.out} has "
            f"{free / 2**30:.1f} GiB free: free some space, give --out on another disk, or take fewer frames (a larger "
            "--every)"
        )
    return expected


def _release(job: Job, weighed: Weighed, val: Pack) -> Outcome:
    """Export by the verdict, and promote if asked to."""
    verdict, options = weighed.verdict, job.options
    wanted = verdict is None or verdict in EXPORTED or options.export_anyway
    pair = _export(job, job.out / weighed.chosen, val) if wanted else None
    before = promote(options.models, pair.name) if pair is not None and options.promote else None
    return Outcome(weighed=weighed, pair=pair, promoted_over=before)


def _export(job: Job, run: Path, val: Pack) -> Path:
    options = job.options
    release = Release(
        models=options.models,
        name=job.base_name,
        is_fixed=options.name is not None,
        version=options.version,
        variants=options.variants,
        seed=job.seed,
    )

    def work() -> dict[str, Any]:
        return {"name": export_new(release, run, val, command=options.command).name}

    def amiss(result: Mapping[str, Any]) -> str | None:
        folder = options.models / result["name"]
        return None if is_ours(folder, load_probe(run)) else f"{folder} is missing or is another pair"

    inputs = {
        "probe": load_probe(run).record["probe_sha256"],
        "pack": val.digest,
        "models": str(options.models.resolve()),
        "name": release.name,
        "version": release.version,
        "variants": list(release.variants),
    }
    result = job.stages.run("export", inputs=inputs, work=work, amiss=amiss)
    return options.models / str(result["name"])
