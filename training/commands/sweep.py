"""`pipeprobe-train sweep`: the study."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
import torch
from rich.console import Console
from rich.table import Table

from serving.errors import ConfigError
from serving.ray_cluster import cluster_of
from training import runs
from training.backbones import ENCODERS, Encoder
from training.commands.options import device_option, typed_command
from training.config import Axis, Precision, Views
from training.features import encoder_digest
from training.loop import LoopOptions
from training.methods import METHODS
from training.precision import fastest_precision
from training.study.estimate import estimate_s
from training.study.plan import PAPER_METHODS, Baseline, PretrainOn, StudySettings
from training.study.ray_engine import run_missing_on_ray
from training.study.study_folder import Study, open_study, precision_of
from training.study.sweep import SweepOutcome, missing_experiments, run_missing

ALL = "all"
_DEFAULTS = StudySettings()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Run grids of experiments that survive being stopped."""


def _list(_context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _proportions(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[float | None, ...]:
    try:
        parts = [part.strip() for part in value.split(",") if part.strip()]
        return tuple(None if part == ALL else float(part) for part in parts)
    except ValueError as error:
        raise ConfigError(
            f"--proportions takes numbers between 0 and 1 and {ALL!r}, such as 0.01,0.15,{ALL}"
        ) from error


@command.command()
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with the packs train, val and test.",
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the study.")
@click.option(
    "--methods", default=",".join(PAPER_METHODS), show_default=True, callback=_list, help=f"Of {', '.join(METHODS)}."
)
@click.option("--encoders", default=",".join(ENCODERS), show_default=True, callback=_list)
@click.option(
    "--proportions",
    default=f"0.01,0.02,0.05,0.15,{ALL}",
    show_default=True,
    callback=_proportions,
    help=f"Shares of defects in the training subsets; {ALL}: the split as it is.",
)
@click.option("--seeds", default=_DEFAULTS.seeds, show_default=True, help="How many; each draws its own subset.")
@click.option(
    "--baselines",
    default=",".join(_DEFAULTS.baselines),
    show_default=True,
    callback=_list,
    help=f"Of {', '.join(get_args(Baseline))}.",
)
@click.option("--epochs", default=_DEFAULTS.epochs, show_default=True, help="Passes over each training subset.")
@click.option("--batch-size", default=_DEFAULTS.batch_size, show_default=True)
@click.option("--optim", default=_DEFAULTS.optim, show_default=True, type=click.Choice(get_args(Axis)))
@click.option("--views", default=_DEFAULTS.views, show_default=True, type=click.Choice(get_args(Views)))
@click.option("--view-size", type=int, help="Side of the augmented views, pixels.  [default: that of the packs]")
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    help="Of forward passes in training.  [default: the study's own; of a new one bf16 on GPUs and processors that "
    "have it, else fp32]",
)
@click.option(
    "--pretrain-on",
    default=_DEFAULTS.pretrain_on,
    show_default=True,
    type=click.Choice(get_args(PretrainOn)),
    help="The frames of the probe's subset, or all of the training split, once for all proportions.",
)
@click.option("--frames", type=click.IntRange(min=10), help="Frames of each training subset.  [default: all normals]")
@click.option(
    "--init",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run folder of an encoder to start from; one for each of --encoders. Adds the baseline transferred.",
)
@click.option("--plan", "plan_only", is_flag=True, help="List the experiments with estimates of their time, and stop.")
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Run no other experiments than those whose names match, such as 'dino-*' or '*-p15-s0'; may be repeated.",
)
@click.option("--max-minutes", type=float, help="Begin nothing that would not end in this time.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@device_option
@click.option(
    "--engine",
    default="local",
    show_default=True,
    type=click.Choice(["local", "ray"]),
    help="Where experiments run: one after the other here, or side by side on a Ray cluster.",
)
@click.option("--address", help="Ray: of a running cluster, such as auto.  [default: start Ray on this machine]")
@click.option("--gpus-per-run", type=float, help="Ray: share of a GPU.  [default: a whole one, none with --device cpu]")
@click.option("--cpus-per-run", type=click.IntRange(min=1), help="Ray: cores, and CPU threads.  [default: 1]")
def study(
    data: Path,
    out: Path,
    plan_only: bool,
    only: tuple[str, ...],
    max_minutes: float | None,
    threads: int | None,
    device: str,
    **options: Any,
) -> None:
    """Run the study of Otero, Mateus and Balestriero (2024): methods x encoders x shares of defects x seeds.

    With its defaults that is the full plan of 250 runs and its baselines, which wants GPUs. What is finished is never
    run again: the same command continues after it was stopped or killed, and several processes may share one study
    (one for each GPU, say). With --engine ray, experiments run side by side on a Ray cluster whose machines all see
    --data and --out under the same paths. `pipeprobe-train report` makes tables and figures of it at any time.

    \b
    Examples:
      pipeprobe-train sweep study --data packs --out study --plan
      pipeprobe-train sweep study --data packs --out study --device cuda:1 --only '*-vit_tiny-*'
      pipeprobe-train sweep study --data packs --out study --engine ray --gpus-per-run 0.25 --cpus-per-run 4
      pipeprobe-train sweep study --data packs --out small --optim short --views inspection --seeds 1 --epochs 5
    """
    logging.basicConfig(format="%(message)s")
    engine = options.pop("engine")
    of_ray = {f"--{name.replace('_', '-')}": options.pop(name) for name in ("address", "gpus_per_run", "cpus_per_run")}
    if engine == "ray" and threads is not None:
        raise ConfigError("--threads is for --engine local: on Ray an experiment has as many as --cpus-per-run")
    cluster = cluster_of(engine, device, of_ray, task="an experiment")
    if cluster is not None:
        device, threads = "cpu" if cluster.device == "cpu" else device, cluster.cpus
    if threads is not None:
        torch.set_num_threads(threads)
    options["precision"] = options["precision"] or precision_of(out) or fastest_precision(device)
    initial = _initial_encoders(options.pop("init"), options["encoders"])
    if initial and "transferred" not in options["baselines"]:
        options["baselines"] = (*options["baselines"], "transferred")
    if not options["methods"] or "simclr" not in options["methods"]:
        options["baselines"] = tuple(kind for kind in options["baselines"] if kind != "finetuned")
    pairs = tuple((name, encoder_digest(encoder)) for name, encoder in initial.items())
    opened = replace(open_study(out, data, StudySettings(**options, initial=pairs), initial), only=only)
    console = Console(stderr=True, highlight=False)
    with console.status("timing a few steps of each kind"):
        estimates = estimate_s(opened, device)
    console.print(_plan_table(opened, estimates))
    if plan_only:
        return
    run: Callable[..., SweepOutcome] = run_missing
    if cluster is not None:
        run = partial(run_missing_on_ray, data_folder=data, cluster=cluster)
    outcome = run(
        opened,
        estimates,
        options=LoopOptions(device=device, monitor_frames=256),
        max_minutes=max_minutes,
        command=typed_command(),
        say=lambda line: console.print(line, soft_wrap=True, markup=False),
    )
    _conclude(console, opened, outcome)


def _initial_encoders(folders: tuple[Path, ...], wanted: tuple[str, ...]) -> dict[str, Encoder]:
    encoders = [runs.load_encoder(folder)[0] for folder in folders]
    found = {encoder.name: encoder for encoder in encoders}
    if len(found) < len(encoders):
        raise ConfigError("--init names two encoders of one kind: give one for each of --encoders")
    if folders and set(found) != set(wanted):
        raise ConfigError(
            f"--init gives {', '.join(found)}, and --encoders names {', '.join(wanted)}: give one for each"
        )
    return found


def _plan_table(opened: Study, estimates: dict[str, float]) -> Table:
    """One line an experiment, and the hours that remain."""
    missing = missing_experiments(opened)
    hours = sum(estimates[experiment.id] for experiment in missing) / 3600
    table = Table(
        title=f"{len(opened.planned)} experiments, {len(missing)} to run, about {hours:.1f} h in all on this machine"
    )
    for heading in ("experiment", "kind", "estimate", ""):
        table.add_column(heading, justify="right" if heading == "estimate" else "left")
    for experiment in opened.planned:
        state = "done" if opened.is_done(experiment) else "" if experiment.id in estimates else "not asked for"
        estimate = f"{estimates[experiment.id]:.0f} s" if experiment.id in estimates else ""
        table.add_row(experiment.id, experiment.kind, estimate, state)
    return table


def _conclude(console: Console, opened: Study, outcome: SweepOutcome) -> None:
    console.print(f"{len(outcome.finished)} experiments finished; results in {opened.folder}", soft_wrap=True)
    if outcome.left:
        console.print(f"{len(outcome.left)} left for want of time: the same command goes on with them", soft_wrap=True)
    if outcome.held:
        console.print(f"{len(outcome.held)} are being run by another process", soft_wrap=True)
    if outcome.failed:
        listing = "; ".join(f"{name}: {message}" for name, message in outcome.failed.items())
        raise ConfigError(f"{len(outcome.failed)} experiments failed, the others are not affected. {listing}")
