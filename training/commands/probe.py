"""`pipeprobe-train probe`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from serving.durable import write_json_atomic
from serving.errors import ConfigError
from training import runs
from training.commands.options import device_option, evaluate_option, typed_command
from training.data.pack import Pack, open_pack
from training.probe import PROBE, PROBE_JSON, FittedProbe, ProbeConfig, run_probe

_ROWS = {
    "auroc": "AUROC",
    "average_precision": "AP",
    "f1@balanced": "F1",
    "f2@balanced": "F2",
    "f2_ciw_binary@balanced": "F2 CIW*",
    "f1_normal@balanced": "F1 normal",
    "f1@argmax": "F1 argmax",
}


@click.command()
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--train",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Pack that fits and calibrates the probe.",
)
@click.option(
    "--val",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Pack that it is measured on.",
)
@evaluate_option
@click.option(
    "--random-init",
    metavar="ENCODER",
    help="Make RUN a run folder with an untrained encoder (resnet18, vit_tiny) first: the floor.",
)
@click.option("--seed", default=0, show_default=True, help="Draws the held-out part and the intervals.")
@click.option(
    "--calibration-share",
    default=0.2,
    show_default=True,
    help="Share of the training inspections held out of the fit for calibration and thresholds.",
)
@device_option
def command(
    run: Path,
    train: Path,
    val: Path,
    evaluate: dict[str, Path],
    random_init: str | None,
    seed: int,
    calibration_share: float,
    device: str,
) -> None:
    """Fit a linear probe on the frozen encoder of RUN, calibrate it, choose its operating points, and measure it.

    Writes RUN/probe. Features are computed once per encoder and pack and kept in RUN/features.

    \b
    Example:
      pipeprobe-train probe runs/simclr --train packs/train --val packs/val --evaluate shifted=packs/shifted
      pipeprobe-train probe runs/floor --random-init resnet18 --train packs/train --val packs/val
    """
    config = ProbeConfig(calibration_share=calibration_share, seed=seed)
    others = {name: open_pack(path) for name, path in evaluate.items()}
    train_pack = open_pack(train)
    if random_init is not None:
        make_random_run(run, random_init, train_pack, seed)
    fitted = run_probe(
        run,
        train=train_pack,
        val=open_pack(val),
        others=others,
        config=config,
        device=device,
        command=typed_command(),
    )
    console = Console()
    for table in tables(fitted):
        console.print(table)
    if not fitted.record["informative"]:
        console.print(
            "The probe ranks held-out frames no better than chance: scores are flat, and it cannot be exported.",
            style="bold red",
        )
    console.print("* f2_ciw_binary, a variant of this project, not Sewer-ML's official score", style="dim")
    console.print(f"wrote {run / PROBE / PROBE_JSON}", soft_wrap=True)


def make_random_run(run: Path, encoder: str, pack: Pack, seed: int) -> None:
    """Make `run` a finished run whose encoder was never trained; one made alike before is kept.

    Raises:
        ConfigError: `run` is another run.
    """
    config = {"method": "random", "encoder": encoder, "image_size": pack.size, "seed": seed}
    if (run / runs.CONFIG).is_file():
        if runs.read_json(run / runs.CONFIG) != config:
            raise ConfigError(f"{run} is another run already: name a new folder for --random-init")
        return
    untrained = runs.random_encoder(encoder, pack.size, seed)
    write_json_atomic(run / runs.CONFIG, config)
    runs.save_encoder(run, untrained)
    runs.update_run(run, status="finished", **runs.provenance(typed_command()))


def tables(fitted: FittedProbe) -> list[Table]:
    """Metrics of each data set, the operating points, and the calibration, as they are printed."""
    return [_metric_table(fitted), _point_table(fitted), _calibration_table(fitted)]


def _metric_table(fitted: FittedProbe) -> Table:
    table = Table(title="Probe: value (95 % interval), thresholded at `balanced`")
    table.add_column("")
    data = fitted.record["data"]
    for name in data:
        table.add_column(name, justify="right")
    table.add_row("labelled frames", *(_frames(part) for part in data.values()))
    found = {(metric.data, metric.name): metric for metric in fitted.metrics}
    for key, label in _ROWS.items():
        metrics = [found.get((name, key)) for name in data]
        if any(metrics):
            table.add_row(label, *(f"{m.value:.3f} ({m.low:.3f}-{m.high:.3f})" if m else "-" for m in metrics))
    return table


def _frames(part: dict[str, int]) -> str:
    labelled = str(part["frames"] - part["unlabelled"])
    return f"{labelled} (+{part['unlabelled']} without)" if part["unlabelled"] else labelled


def _point_table(fitted: FittedProbe) -> Table:
    table = Table(title="Operating points: chosen on held-out train, measured on val")
    for label in ("name", "threshold", "recall", "precision", "specificity"):
        table.add_column(label, justify="left" if label == "name" else "right")
    for point in fitted.operating_points.values():
        figures = (point.threshold, point.recall, point.precision, point.specificity)
        table.add_row(point.name, *(f"{figure:.3f}" for figure in figures))
    return table


def _calibration_table(fitted: FittedProbe) -> Table:
    table = Table(title="Calibration, fitted on the held-out part; it holds for that share of defects")
    for label in ("data", "frames", "defects", "ECE before", "after", "Brier before", "after"):
        table.add_column(label, justify="left" if label == "data" else "right")
    for name, part in fitted.record["calibration_quality"].items():
        keys = ("ece_before", "ece_after", "brier_before", "brier_after")
        share = f"{100 * part['prevalence']:.1f} %"
        table.add_row(name, str(part["n"]), share, *(f"{part[key]:.4f}" for key in keys))
    return table
