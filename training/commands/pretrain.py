"""`pipeprobe-train pretrain`."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click
import torch
from click.core import ParameterSource
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from serving.errors import ConfigError
from training.backbones import ENCODERS, Encoder
from training.commands.options import device_option, typed_command
from training.config import Axis, Precision, PretrainConfig, Views
from training.data.pack import Pack, open_pack
from training.distributed import is_launched, joined_processes, rank
from training.features import encoder_digest
from training.loop import LoopOptions, Summary, pretrain
from training.methods import METHODS
from training.precision import fastest_precision
from training.recipes import RECIPES
from training.runs import CONFIG, load_encoder, read_json

# Options that a run's config fixes, by where the config holds them.
CONFIG_KEYS: dict[str, tuple[str | int, ...]] = {
    "method": ("method",),
    "encoder": ("encoder",),
    "epochs": ("epochs",),
    "batch_size": ("batch_size",),
    "image_size": ("image_size",),
    "views": ("views",),
    "view_size": ("method_config", "views", "views", 0, "size"),
    "seed": ("seed",),
    "optim": ("axis",),
    "precision": ("precision",),
}
DEFAULT_ENCODER = "resnet18"
# The same idea for the other kind of encoder.
COUNTERPARTS = {"mae": "masked_conv", "masked_conv": "mae"}
# What to do next, by how a run ended.
ADVICE = {
    "finished": "Next: pipeprobe-train probe {run} --train PACK --val PACK",
    "paused": "Time is up; the same command with --resume goes on.",
    "collapsed": "The encoder hardly tells frames apart, and a probe on it will not either. Start another run: with "
    "--optim recommended, with --optim short if there are few steps, or with a larger --batch-size; metrics.jsonl says "
    "after which epoch RankMe fell.",
}


@click.command()
@click.argument("pack", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--method",
    default="simclr",
    show_default=True,
    type=click.Choice(list(METHODS)),
    help="mae is for vit_tiny, masked_conv its counterpart for resnet18; all others are for both.",
)
@click.option(
    "--encoder",
    type=click.Choice(list(ENCODERS)),
    help="What is trained.  [default: that of --init, else resnet18]",
)
@click.option(
    "--init",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run folder whose encoder it starts from.  [default: fresh weights]",
)
@click.option("--epochs", default=100, show_default=True, help="Passes over the pack.")
@click.option("--batch-size", default=256, show_default=True, help="Frames a step; the learning rate scales with it.")
@click.option(
    "--image-size", type=int, help="Side of the frames in pixels.  [default: that of --init, else the pack's]"
)
@click.option(
    "--views",
    default="published",
    show_default=True,
    type=click.Choice(get_args(Views)),
    help="Augmentation: the method's own, or one that keeps more of what inspectors look for.",
)
@click.option(
    "--view-size",
    type=int,
    help="Side of the augmented views in pixels; smaller ones are cheaper.  [default: image size]",
)
@click.option("--seed", default=0, show_default=True, help="Of weights, order and views.")
@click.option(
    "--optim",
    default="recommended",
    show_default=True,
    type=click.Choice(get_args(Axis)),
    help="paper: the optimiser of the study; recommended: what the method's authors advise; short: for runs of a few "
    "thousand steps.",
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    help="Of the forward pass.  [default: bf16 on GPUs and processors that have it, else fp32]",
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Run folder to write.")
@click.option("--resume", is_flag=True, help="Continue the run in --out from its last checkpoint.")
@device_option
@click.option("--compile", is_flag=True, help="Compile the encoder with torch.compile; pays on GPUs, in long runs.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads, of each process.  [default: all cores; torchrun: 1]"
)
@click.option("--max-minutes", type=float, help="Stop with a checkpoint after this time; --resume goes on from there.")
@click.pass_context
def command(
    context: click.Context,
    /,
    pack: Path,
    init: Path | None,
    out: Path,
    resume: bool,
    device: str,
    compile: bool,
    threads: int | None,
    max_minutes: float | None,
    **settings: Any,
) -> None:
    """Pretrain an encoder on the frames of PACK; labels are not looked at.

    A run that was stopped, or killed, goes on with --resume; options left out are then the run's own. Every epoch
    ends with a checkpoint and a line in metrics.jsonl: loss, frames/s, RankMe (how many dimensions the features fill)
    and feature std (0 when all frames look the same to the encoder).

    Under torchrun, processes share each batch, and each GPU takes one; the run is the same as that of one process.

    \b
    Examples:
      pipeprobe-train pretrain packs/train --encoder resnet18 --epochs 200 --out runs/simclr
      pipeprobe-train pretrain packs/train --method dino --encoder vit_tiny --out runs/dino
      pipeprobe-train pretrain packs/train --optim short --views inspection --view-size 64 --epochs 40 --out runs/cpu
      pipeprobe-train pretrain packs/own --init runs/simclr --optim short --epochs 20 --out runs/own
      pipeprobe-train pretrain packs/train --out runs/simclr --resume
      torchrun --nproc-per-node 4 -m training pretrain packs/train --batch-size 1024 --out runs/simclr
    """
    with joined_processes(device) as own_device:
        level = logging.ERROR if rank() else logging.WARNING
        handler = RichHandler(console=Console(stderr=True), show_path=False)
        logging.basicConfig(format="%(message)s", level=level, handlers=[handler])
        if threads is not None:
            torch.set_num_threads(threads)
        options = LoopOptions(device=own_device, max_minutes=max_minutes, compile=compile)
        opened = open_pack(pack)
        initial = None if init is None else load_encoder(init)[0]
        config = (
            _config_of_run(context, out, initial)
            if resume
            else _config_from_recipe(opened, initial, settings, own_device)
        )
        summary = pretrain(config, opened, out, options=options, initial=initial, resume=resume, command=_command())
        if not rank():
            _print_summary(summary)


def _command() -> str:
    """The command as it was typed, under torchrun too."""
    typed = typed_command()
    if not is_launched():
        return typed
    processes = os.environ["LOCAL_WORLD_SIZE"]
    return typed.replace("pipeprobe-train", f"torchrun --nproc-per-node {processes} -m training", 1)


def _config_from_recipe(pack: Pack, initial: Encoder | None, settings: dict[str, Any], device: str) -> PretrainConfig:
    method, encoder, precision = (settings.pop(key) for key in ("method", "encoder", "precision"))
    if initial is not None:
        encoder = encoder or initial.name
        settings["image_size"] = settings["image_size"] or initial.image_size
        settings["initial_encoder"] = encoder_digest(initial)
    settings["image_size"] = settings["image_size"] or pack.size
    return _recipe(method, encoder or DEFAULT_ENCODER)(**settings, precision=precision or fastest_precision(device))


def _recipe(method: str, encoder: str) -> Callable[..., PretrainConfig]:
    if (method, encoder) in RECIPES:
        return RECIPES[method, encoder]
    encoders = [known for known in ENCODERS if (method, known) in RECIPES]
    methods = [known for known in METHODS if (known, encoder) in RECIPES]
    counterpart = COUNTERPARTS.get(method)
    hint = f"Its counterpart there is --method {counterpart}. " if counterpart in methods else ""
    raise ConfigError(
        f"there is no recipe for {method} on {encoder}. {hint}{method} is for {', '.join(encoders)}; on "
        f"{encoder} there are {', '.join(methods)}"
    )


def _config_of_run(context: click.Context, run: Path, initial: Encoder | None) -> PretrainConfig:
    """The config in the run folder; options that were typed must agree with it."""
    saved = read_json(run / CONFIG)
    config = PretrainConfig.from_json(saved)
    if initial is not None and encoder_digest(initial) != config.initial_encoder:
        raise ConfigError(
            f"{run} was not started from the encoder of --init: a run cannot change where it started; leave --init "
            "out, or start a new run"
        )
    for option, keys in CONFIG_KEYS.items():
        typed = context.get_parameter_source(option) is ParameterSource.COMMANDLINE
        value: Any = saved
        for key in keys:
            value = value[key]
        if typed and context.params[option] != value:
            flag = f"--{option.replace('_', '-')}"
            raise ConfigError(
                f"{run} was started with {flag} {value}, not {context.params[option]}: a run cannot change "
                f"its config; leave {flag} out, or start a new run"
            )
    return config


def _print_summary(summary: Summary) -> None:
    table = Table()
    for heading in ("loss", "RankMe", "feature std", "frames/s"):
        table.add_column(heading, justify="right")
    table.add_row(
        _figure(summary.loss, 4), _figure(summary.rankme, 1), _figure(summary.feature_std, 4),
        _figure(summary.frames_per_s, 1),
    )  # fmt: skip
    console = Console()
    console.print(f"{summary.run}: {summary.status} after {summary.epochs_done} epochs", soft_wrap=True)
    console.print(table)
    if summary.status in ADVICE:
        console.print(ADVICE[summary.status].format(run=summary.run), soft_wrap=True)


def _figure(value: float, decimals: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"
