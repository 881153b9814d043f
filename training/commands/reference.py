"""`pipeprobe-train reference`."""

from __future__ import annotations

from pathlib import Path

import click

from training.commands.options import typed_command
from training.data.pack import open_pack
from training.reference import add_reference


@click.command()
@click.argument("pair", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--pack",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Frames like those that the pair is meant for, best the ones it was validated on; labels are not needed.",
)
@click.option("--version", required=True, help="The new version, such as 1.0.1.")
@click.option(
    "--out",
    default=Path("models"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of pairs.",
)
def command(pair: Path, pack: Path, version: str, out: Path) -> None:
    """Write PAIR as a new version that ships a reference of its scores and embeddings on PACK.

    A service measures drift from that reference. Weights, thresholds and scores stay as they are. `export` writes a
    reference itself; this is for pairs without one, or for a reference of your own footage.

    \b
    Example:
      pipeprobe-train reference models/simclr-resnet18 --pack packs/val --version 1.0.1
    """
    folder = add_reference(pair, pack=open_pack(pack), version=version, out=out, command=typed_command())
    click.echo(f"wrote {folder}")
