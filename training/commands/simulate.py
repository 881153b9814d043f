"""`pipeprobe-train simulate`: data sets and inspections of simulated pipes, and sheets to look at them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

OUT = click.argument("out", type=click.Path(path_type=Path))
SEED = click.option("--seed", default=0, show_default=True, help="The same seed gives the same bytes.")
PROFILE = click.option(
    "--profile",
    type=click.Choice(["standard", "shifted"]),
    default="standard",
    show_default=True,
    help="shifted: materials, cameras and compression that standard never has.",
)


@click.group()
def command() -> None:
    """Draw simulated pipes: frames in Sewer-ML's format, inspection videos with their truth, contact sheets.

    \b
    Example:
      pipeprobe-train simulate frames data/sim --train 8000 --val 2000
      pipeprobe-train simulate inspections data/videos --count 2 --duration-s 60
      pipeprobe-train simulate sheet sheet.png
    """


@command.command("frames")
@OUT
@click.option("--train", default=8000, show_default=True, help="Frames of the train split.")
@click.option("--val", default=2000, show_default=True, help="Frames of the val split.")
@click.option("--test", default=0, show_default=True, help="Frames of the test split.")
@click.option("--size", default=256, show_default=True, help="Side of the square frames, pixels.")
@SEED
@PROFILE
@click.option("--defect-share", default=0.47, show_default=True, help="Share of frames with a defect, in each split.")
@click.option("--masks", is_flag=True, help="Also write the class of every pixel, as PNG.")
@click.option("--workers", default=2, show_default=True, help="Processes; the result does not depend on it.")
def frames(
    out: Path,
    train: int,
    val: int,
    test: int,
    size: int,
    seed: int,
    profile: str,
    defect_share: float,
    masks: bool,
    workers: int,
) -> None:
    """Write a data set of frames to OUT, in Sewer-ML's format, split by pipe.

    \b
    Example:
      pipeprobe-train simulate frames data/sim --train 8000 --val 2000 --seed 1
    """
    from training.simulator.frames import FramesConfig, simulate_frames

    config = FramesConfig(
        train=train,
        val=val,
        test=test,
        size=size,
        seed=seed,
        profile=profile,
        defect_share=defect_share,
        masks=masks,
    )
    started = time.monotonic()
    summary = simulate_frames(config, out, workers=workers, command=" ".join(["pipeprobe-train", *sys.argv[1:]]))
    taken = time.monotonic() - started
    for split, counts in summary["counts"].items():
        click.echo(f"{split}: {counts['frames']} frames, {counts['defect']} with a defect")
    click.echo(f"{out}: {(train + val + test) / taken:.1f} frames/s in {taken:.0f} s")
