"""`pipeprobe-train classes`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from training.class_probe import CLASSES, CLASSES_JSON, UNWEIGHTED, ClassProbeConfig, FittedClassProbe, run_class_probe
from training.commands.options import device_option, evaluate_option, typed_command
from training.data.classes import CLASS_NAMES
from training.data.pack import open_pack

_ROWS = {
    "f2_ciw": "F2CIW",
    "f1_normal": "F1_Normal",
    "macro_f1": "macro F1",
    f"f2_ciw{UNWEIGHTED}": "F2CIW, unweighted*",
    f"f1_normal{UNWEIGHTED}": "F1_Normal, unweighted*",
    f"macro_f1{UNWEIGHTED}": "macro F1, unweighted*",
}


@click.command()
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--train",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Pack that fits the probes.",
)
@click.option(
    "--val",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Pack that they are measured on.",
)
@evaluate_option
@click.option("--seed", default=0, show_default=True, help="Draws the held-out parts and the intervals.")
@click.option(
    "--min-examples",
    default=10,
    show_default=True,
    help="Frames that must show a class for it to be learnt; rarer ones score 0 and are named.",
)
@device_option
def command(
    run: Path,
    train: Path,
    val: Path,
    evaluate: dict[str, Path],
    seed: int,
    min_examples: int,
    device: str,
) -> None:
    """Fit one linear probe for each of the 17 Sewer-ML classes on the frozen encoder of RUN, and measure them.

    Writes RUN/classes: the weights, each class's precision, recall, F2 and average precision, and Sewer-ML's official
    multi-label metric, F2CIW and F1_Normal at threshold 0.5. Features are shared with `pipeprobe-train probe`.

    \b
    Example:
      pipeprobe-train classes runs/simclr --train packs/train --val packs/val --evaluate shifted=packs/shifted
    """
    fitted = run_class_probe(
        run,
        train=open_pack(train),
        val=open_pack(val),
        others={name: open_pack(path) for name, path in evaluate.items()},
        config=ClassProbeConfig(min_examples=min_examples, seed=seed),
        device=device,
        command=typed_command(),
    )
    console = Console()
    for table in tables(fitted):
        console.print(table)
    console.print("* the weighting undone: scores at the frequency that each class has in `train`", style="dim")
    if fitted.probe.absent:
        console.print(
            f"Not learnt, since `train` holds too few examples; scored 0: {', '.join(fitted.probe.absent)}",
            style="yellow",
        )
    console.print(f"wrote {run / CLASSES / CLASSES_JSON}", soft_wrap=True)


def tables(fitted: FittedClassProbe) -> Iterator[Table]:
    """The classes on each pack that was measured on, then the official metric on all of them, as they are printed."""
    for name in fitted.scores:
        if name != "train":
            yield _class_table(fitted, name)
    yield _official_table(fitted)


def _class_table(fitted: FittedClassProbe, name: str) -> Table:
    scores = fitted.scores[name]
    table = Table(title=f"Classes on {name}: {scores.n} frames, verdicts at 0.5")
    for label in ("code", "name", "n", "precision", "recall", "F2", "AP"):
        table.add_column(label, justify="left" if label in ("code", "name") else "right")
    for code, score in scores.per_class.items():
        figures = (score.precision, score.recall, score.f2, score.average_precision)
        style = "dim" if code in fitted.probe.absent else None
        table.add_row(code, CLASS_NAMES[code], str(score.n), *map(_figure, figures), style=style)
    return table


def _official_table(fitted: FittedClassProbe) -> Table:
    table = Table(title="Sewer-ML's official metric: value (95 % interval)")
    table.add_column("")
    for name in fitted.scores:
        table.add_column(name, justify="right")
    found = {(metric.data, metric.name): metric for metric in fitted.metrics}
    for key, label in _ROWS.items():
        metrics = [found[name, key] for name in fitted.scores]
        table.add_row(label, *(f"{m.value:.3f} ({m.low:.3f}-{m.high:.3f})" for m in metrics))
    scores = fitted.scores.values()
    table.add_row("F2CIW at best", *(_figure(part.f2_ciw_ceiling) for part in scores))
    table.add_row("mean AP", *(_figure(part.mean_average_precision) for part in scores))
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
