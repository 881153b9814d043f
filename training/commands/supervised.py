"""`pipeprobe-train supervised`, and what `finetune` shares with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.table import Table

from training.backbones import ENCODERS
from training.commands.options import device_option, typed_command
from training.data.pack import open_pack
from training.supervised import RESULT, SupervisedConfig, SupervisedResult, SupervisedViews, train_supervised

_OPTIONS = (
    click.option(
        "--train",
        required=True,
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Pack to train on; its unlabelled frames are left out.",
    ),
    click.option(
        "--val",
        required=True,
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Pack to measure on.",
    ),
    click.option("--epochs", default=10, show_default=True, help="Passes over the training frames."),
    click.option(
        "--batch-size", default=64, show_default=True, help="Frames a step; the learning rate grows with its root."
    ),
    click.option(
        "--views",
        default="mild",
        show_default=True,
        type=click.Choice(get_args(SupervisedViews)),
        help="Augmentation: one that keeps most of a frame, or those of pretraining without what destroys colour.",
    ),
    click.option("--seed", default=0, show_default=True, help="Weights, order and augmentation."),
    click.option(
        "--out",
        required=True,
        type=click.Path(file_okay=False, path_type=Path),
        help="Run folder to write; its encoder can be probed and exported.",
    ),
    device_option,
)


def training_options(function: Any) -> Any:
    """Add the options of supervised training, in the order of `_OPTIONS`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command()
@click.option("--encoder", default="resnet18", show_default=True, type=click.Choice(list(ENCODERS)))
@click.option(
    "--view-size",
    type=int,
    help="Side of the augmented views in pixels; smaller is cheaper. The last fifth of the steps sees views as "
    "large as the frames all the same.  [default: the frames']",
)
@training_options
def command(train: Path, val: Path, out: Path, device: str, **settings: Any) -> None:
    """Train encoder and classifier end to end on labels: what a frozen encoder with a probe is compared with.

    \b
    Example:
      pipeprobe-train supervised --train packs/train --val packs/val --out runs/supervised
      pipeprobe-train supervised --encoder vit_tiny --train packs/train --val packs/val --out runs/supervised-vit
    """
    result = train_supervised(
        open_pack(train),
        open_pack(val),
        config=SupervisedConfig(**settings),
        device=device,
        out=out,
        command=typed_command(),
    )
    print_result(f"{settings['encoder']}, supervised", result, out)


def print_result(title: str, result: SupervisedResult, out: Path) -> None:
    """All metrics with their intervals, the speed, and what was written."""
    table = Table(title=f"{title}: {result.n_train} frames, measured on {result.n_val}")
    for label in ("metric", "value", "95 % interval"):
        table.add_column(label, justify="left" if label == "metric" else "right")
    for name, estimate in result.metrics.items():
        table.add_row(name, f"{estimate.value:.4f}", f"{estimate.low:.4f} to {estimate.high:.4f}")
    console = Console()
    console.print(table)
    console.print(f"{result.frames_per_s:.0f} frames/s; wrote {out / RESULT}", soft_wrap=True)
