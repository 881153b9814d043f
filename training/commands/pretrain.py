"""`pipeprobe-train pretrain`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, get_args

import click
import torch
from click.core import ParameterSource
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from serving.errors import ConfigError
from training.backbones import ENCODERS
from training.commands.options import device_option, typed_command
from training.config import Axis, Precision, PretrainConfig, Views
from training.data.pack import Pack, open_pack
from training.loop import LoopOptions, Summary, pretrain
from training.methods import METHODS
from training.recipes import RECIPES
from training.runs import CONFIG, read_json

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


@click.command()
@click.argument("pack", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--method", default="simclr", show_default=True, type=click.Choice(list(METHODS)))
@click.option("--encoder", default="resnet18", show_default=True, type=click.Choice(list(ENCODERS)))
@click.option("--epochs", default=100, show_default=True, help="Passes over the pack.")
@click.option("--batch-size", default=256, show_default=True, help="Frames a step; the learning rate scales with it.")
@click.option("--image-size", type=int, help="Side of the frames in pixels.  [default: that of the pack]")
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
    help="Side of the augmented views in pixels; smaller ones are cheaper, resnet18 only.  [default: image size]",
)
@click.option("--seed", default=0, show_default=True, help="Of weights, order and views.")
@click.option(
    "--optim",
    default="recommended",
    show_default=True,
    type=click.Choice(get_args(Axis)),
    help="Optimiser of the study; what the method's authors advise; or one for runs of a few thousand steps.",
)
@click.option(
    "--precision",
    default="bf16",
    show_default=True,
    type=click.Choice(get_args(Precision)),
    help="Of the forward pass; fp32 is faster on processors without bf16 instructions.",
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Run folder to write.")
@click.option("--resume", is_flag=True, help="Continue the run in --out from its last checkpoint.")
@device_option
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--max-minutes", type=float, help="Stop with a checkpoint after this time; --resume goes on from there.")
@click.pass_context
def command(
    context: click.Context,
    /,
    pack: Path,
    out: Path,
    resume: bool,
    device: str,
    threads: int | None,
    max_minutes: float | None,
    **settings: Any,
) -> None:
    """Pretrain an encoder on the frames of PACK; labels are not looked at.

    A run that was stopped, or killed, goes on with --resume; options left out are then the run's own. Every epoch
    ends with a checkpoint and a line in metrics.jsonl: loss, frames/s, RankMe and feature std.

    \b
    Examples:
      pipeprobe-train pretrain packs/train --encoder resnet18 --epochs 200 --out runs/simclr
      pipeprobe-train pretrain packs/train --optim short --views inspection --view-size 64 --epochs 40 --out runs/cpu
      pipeprobe-train pretrain packs/train --out runs/simclr --resume
    """
    logging.basicConfig(format="%(message)s", handlers=[RichHandler(console=Console(stderr=True), show_path=False)])
    if threads is not None:
        torch.set_num_threads(threads)
    options = LoopOptions(device=device, max_minutes=max_minutes)
    opened = open_pack(pack)
    config = _config_of_run(context, out) if resume else _config_from_recipe(opened, settings)
    _print_summary(pretrain(config, opened, out, options=options, resume=resume, command=typed_command()))


def _config_from_recipe(pack: Pack, settings: dict[str, Any]) -> PretrainConfig:
    method, encoder, precision = (settings.pop(key) for key in ("method", "encoder", "precision"))
    if (method, encoder) not in RECIPES:
        raise ConfigError(f"there is no recipe for {method} on {encoder}")
    settings["image_size"] = settings["image_size"] or pack.size
    return RECIPES[method, encoder](**settings, precision=precision)


def _config_of_run(context: click.Context, run: Path) -> PretrainConfig:
    """The config in the run folder; options that were typed must agree with it."""
    saved = read_json(run / CONFIG)
    config = PretrainConfig.from_json(saved)
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
        f"{summary.loss:.4f}", f"{summary.rankme:.1f}", f"{summary.feature_std:.4f}", f"{summary.frames_per_s:.1f}"
    )
    console = Console()
    console.print(f"{summary.run}: {summary.status} after {summary.epochs_done} epochs", soft_wrap=True)
    console.print(table)
    if summary.status == "paused":
        console.print("Time is up; the same command with --resume goes on.", soft_wrap=True)
