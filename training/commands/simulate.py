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

WORKERS = click.option("--workers", default=2, show_default=True, help="Processes; the result does not depend on it.")


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
@WORKERS
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


@command.command("inspections")
@OUT
@click.option("--count", default=1, show_default=True, help="How many inspections.")
@click.option("--duration-s", default=60.0, show_default=True, help="Length of each, seconds.")
@SEED
@PROFILE
@click.option("--codec", type=click.Choice(["mpeg2", "h264"]), default="mpeg2", show_default=True)
@click.option("--bitrate-kbps", default=5000, show_default=True, help="Of the video.")
@click.option("--style", type=click.Choice(["outlined", "bar", "generator", "panel", "none"]), help="On-screen text.")
@click.option("--illegible", default=0.0, show_default=True, help="Share of the time that it cannot be read.")
@click.option("--labels", is_flag=True, help="Also write OUT/labels.csv, from the truth, as `retrain` reads it.")
@WORKERS
def inspections(
    out: Path,
    count: int,
    duration_s: float,
    seed: int,
    profile: str,
    codec: str,
    bitrate_kbps: int,
    style: str | None,
    illegible: float,
    labels: bool,
    workers: int,
) -> None:
    """Write inspection videos (720x576, 25 frames/s) to OUT, each with its truth in NAME.truth.json.

    \b
    Example:
      pipeprobe-train simulate inspections data/videos --count 3 --duration-s 60 --codec h264
    """
    from training.simulator.inspections import InspectionsConfig, simulate_inspections
    from training.simulator.truth import write_labels

    config = InspectionsConfig(
        count=count,
        duration_s=duration_s,
        seed=seed,
        profile=profile,
        codec=codec,
        bitrate_kbps=bitrate_kbps,
        style=style,
        illegible=illegible,
    )
    truths = simulate_inspections(config, out, workers=workers)
    if labels:
        write_labels(truths, out / "labels.csv")
    for truth in truths:
        shown = ", ".join(f"{f.code} {f.start_s:.1f}-{f.end_s:.1f} s" for f in truth.findings) or "no defect"
        click.echo(f"{out / truth.video}: {truth.duration_s:.0f} s, {truth.material}; {shown}")


@command.command("sheet")
@OUT
@click.option("--classes", is_flag=True, help="One row a class, severity rising from left to right.")
@click.option("--rows", default=5, show_default=True)
@click.option("--columns", default=8, show_default=True)
@SEED
@PROFILE
def sheet(out: Path, classes: bool, rows: int, columns: int, seed: int, profile: str) -> None:
    """Write a contact sheet of simulated frames to the picture file OUT.

    \b
    Example:
      pipeprobe-train simulate sheet sheet.png --classes
    """
    from training.simulator.contact_sheet import class_sheet, random_sheet

    if classes:
        class_sheet(out, seed=seed, profile=profile)
    else:
        random_sheet(out, rows=rows, columns=columns, seed=seed, profile=profile)
    click.echo(f"written to {out}")
