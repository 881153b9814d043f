"""`pipeprobe-train pack`: a data set, decoded once, as training reads it."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import click

from serving.devices import available_cores
from serving.errors import ConfigError, DataError
from training.data.classes import CSV_NAMES
from training.data.folders import FOLDERS, FolderSplit, read_folders
from training.data.frame_table import FrameTable
from training.data.imbalance import draw_subset
from training.data.pack import Pack, build_pack
from training.data.sewer_ml import read_sewer_ml


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    required=True,
    help="Sewer-ML's own splits, or parts of plain folders; all: folders unsplit.",
)
@click.option("--size", type=click.IntRange(8, 2048), required=True, help="Side of the packed frames, pixels.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the pack.")
@click.option(
    "--kind",
    type=click.Choice(["auto", "sewer-ml", "folders"]),
    default="auto",
    show_default=True,
    help="Format of SOURCE; auto looks at what is there.",
)
@click.option("--workers", type=click.IntRange(1), help="Decoding processes.  [default: all available cores]")
@click.option("--skip-corrupt", is_flag=True, help="Leave out images that cannot be decoded, and record them.")
@click.option(
    "--defect-proportion",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Draw a subset with this share of defect frames, such as 0.05.  [default: all frames]",
)
@click.option("--subset-seed", type=click.IntRange(0), default=0, show_default=True, help="Chooses the subset.")
@click.option(
    "--subset-frames", type=click.IntRange(2), help="Frames of the subset.  [default: as many as there can be]"
)
@click.option(
    "--shares",
    default="70,15,15",
    show_default=True,
    help="Plain folders: per cent of frames for train, val and test.",
)
@click.option(
    "--split-seed", type=click.IntRange(0), default=0, show_default=True, help="Plain folders: chooses the parts."
)
def command(
    source: Path,
    split: str,
    size: int,
    out: Path,
    kind: str,
    workers: int | None,
    skip_corrupt: bool,
    defect_proportion: float | None,
    subset_seed: int,
    subset_frames: int | None,
    shares: str,
    split_seed: int,
) -> None:
    """Decode one split of the data set SOURCE into a pack, which is all that training reads.

    SOURCE is in Sewer-ML's format (annotation files beside image folders or the published archives, as `simulate
    frames` writes it too) or has the folders defect/, normal/ and unlabelled/, any of them. Plain folders are split
    so that near-duplicates stay on one side, and so do the frames of one inspection where SOURCE/inspections.csv
    (Filename, Inspection) names it. The same command continues after an interruption.

    \b
    Examples:
      pipeprobe-train pack data/sim --split train --size 112 --out packs/train
      pipeprobe-train pack SewerML --split train --size 112 --defect-proportion 0.05 --subset-seed 1 --out packs/train-5
      pipeprobe-train pack footage --split val --size 224 --out packs/val
    """
    started = time.monotonic()
    if subset_frames is not None and defect_proportion is None:
        raise ConfigError("--subset-frames needs --defect-proportion: say what the subset shall hold")
    table = _read(source, kind, split, FolderSplit.from_text(shares, seed=split_seed))
    subset = None
    if defect_proportion is not None:
        drawn = draw_subset(table.labels, defect_proportion=defect_proportion, seed=subset_seed, frames=subset_frames)
        table, subset = table.select(drawn.indices), drawn.record()
    pack = build_pack(
        table,
        size=size,
        out=out,
        workers=workers or available_cores(),
        skip_corrupt=skip_corrupt,
        subset=subset,
        # What was typed; training.commands.options has it too, but would import torch, which packing does not need.
        command=shlex.join(["pipeprobe-train", *sys.argv[1:]]),
    )
    for note in pack.index["notes"]:
        click.echo(note)
    click.echo(_summary(pack, time.monotonic() - started))


def _read(source: Path, kind: str, split: str, folder_split: FolderSplit) -> FrameTable:
    if kind == "auto":
        kind = _recognise(source)
    if kind == "folders":
        return read_folders(source, split=split, how=folder_split)
    return read_sewer_ml(source, split)


def _recognise(source: Path) -> str:
    tables = [name for name in CSV_NAMES.values() if (source / name).is_file()]
    folders = [name for name in FOLDERS if (source / name).is_dir()]
    if tables and folders:
        raise DataError(f"{source} has both {tables[0]} and {folders[0]}/: say which counts with --kind")
    if not tables and not folders:
        raise DataError(
            f"{source} has neither annotations ({', '.join(CSV_NAMES.values())}) nor folders "
            f"({', '.join(f'{name}/' for name in FOLDERS)}): see `pipeprobe-train pack --help` for the formats"
        )
    return "sewer-ml" if tables else "folders"


def _summary(pack: Pack, seconds: float) -> str:
    counts = ", ".join(f"{count} {label}" for label, count in pack.index["labels"].items())
    return (
        f"{pack.path}: {len(pack)} frames of {pack.size} px ({counts}), {len(pack.index['corrupt'])} corrupt left out, "
        f"{pack.frames.nbytes / 1e6:.1f} MB, {seconds:.1f} s"
    )
