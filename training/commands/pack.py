"""`pipeprobe-train pack`: decode a data set once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import click


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--split", default="train", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--size", default=224, show_default=True, help="Side of the square frames in the pack, pixels.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the pack.")
@click.option(
    "--kind",
    type=click.Choice(["auto", "sewer-ml", "folders"]),
    default="auto",
    show_default=True,
    help="How SOURCE is laid out: Sewer-ML's CSVs with folders or zips, or folders defect/, normal/, unlabelled/.",
)
@click.option("--defect-proportion", type=float, help="Draw a subset in which this share shows a defect (0.05: 5 %).")
@click.option("--seed", default=0, show_default=True, help="Of the subset, and of the split of plain folders.")
@click.option("--skip-corrupt", is_flag=True, help="Leave out images that cannot be decoded, and list them.")
@click.option("--workers", default=2, show_default=True, help="Processes that decode.")
def command(
    source: Path,
    split: Literal["train", "val", "test"],
    size: int,
    out: Path,
    kind: str,
    defect_proportion: float | None,
    seed: int,
    skip_corrupt: bool,
    workers: int,
) -> None:
    """Decode one split of the data set SOURCE into a pack, which is all that training reads.

    A killed run is continued by the same command.

    \b
    Example:
      pipeprobe-train pack data/sim --split train --size 112 --out packs/train
      pipeprobe-train pack SewerML --split train --defect-proportion 0.01 --out packs/train-1
    """
    from training.data.folders import is_folder_data_set, read_folders
    from training.data.imbalance import draw_subset
    from training.data.pack import build_pack
    from training.data.sewer_ml import read_sewer_ml

    started = time.monotonic()
    folders = kind == "folders" or (kind == "auto" and is_folder_data_set(source))
    table = read_folders(source, split, seed=seed) if folders else read_sewer_ml(source, split)
    subset = None
    if defect_proportion is not None:
        subset = draw_subset(table.labels, defect_proportion=defect_proportion, seed=seed)
        table = table.select(subset.indices)
    record = subset.record() if subset else None
    pack = build_pack(table, size=size, out=out, workers=workers, skip_corrupt=skip_corrupt, subset=record)
    click.echo(f"{out}: {pack.summary()}, {pack.frames.nbytes / 1e6:.0f} MB, {time.monotonic() - started:.1f} s")
