"""`pipeprobe-train supervised`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from training.backbones import ENCODERS
from training.commands.options import device_option, typed_command
from training.data.pack import open_pack
from training.supervised import RESULT, train_supervised


@click.command()
@click.option(
    "--train",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Pack to train on; its unlabelled frames are left out.",
)
@click.option(
    "--val",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Pack to measure on.",
)
@click.option("--encoder", default="resnet18", show_default=True, type=click.Choice(list(ENCODERS)))
@click.option("--epochs", default=10, show_default=True, help="Passes over the training frames.")
@click.option("--batch-size", default=64, show_default=True, help="Frames a step.")
@click.option("--seed", default=0, show_default=True, help="Weights, order and augmentation.")
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Folder that {RESULT} is written to.",
)
@device_option
def command(
    train: Path, val: Path, encoder: str, epochs: int, batch_size: int, seed: int, out: Path, device: str
) -> None:
    """Train encoder and classifier end to end on labels: the ceiling that a frozen encoder is compared with.

    \b
    Example:
      pipeprobe-train supervised --train packs/train --val packs/val --out runs/supervised
    """
    result = train_supervised(
        open_pack(train),
        open_pack(val),
        encoder=encoder,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        device=device,
        out=out,
        command=typed_command(),
    )
    table = Table(title=f"{encoder}, supervised: {result.n_train} frames, measured on {result.n_val}")
    for label in ("metric", "value", "95 % interval"):
        table.add_column(label, justify="left" if label == "metric" else "right")
    for name, estimate in result.metrics.items():
        table.add_row(name, f"{estimate.value:.4f}", f"{estimate.low:.4f} to {estimate.high:.4f}")
    console = Console()
    console.print(table)
    console.print(f"{result.frames_per_s:.0f} frames/s; wrote {out / RESULT}", soft_wrap=True)
