"""`pipeprobe evaluate`: scored inspections against what is known to be in them."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from serving.durable import sha256_file
from serving.errors import ConfigError
from serving.inspections.evaluation import Scored, put_together
from serving.inspections.review_curve import Allowances
from serving.inspections.truth_files import read_truth
from serving.report.data import read_finished
from serving.report.evaluation import CURVE_SVG, lines_of, write_evaluation
from serving.report.evaluation_summary import Summary, percent


def _marks(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    marked: dict[str, float] = {}
    for value in values:
        name, _, number = value.rpartition("=")
        try:
            threshold = float(number)
        except ValueError:
            threshold = -1.0
        if not name or not 0 <= threshold <= 1 or name in marked:
            raise click.BadParameter(f"{value!r}: NAME=THRESHOLD belongs there, each name once, such as strict=0.9")
        marked[name] = threshold
    return marked


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("truth", type=click.Path(exists=True, path_type=Path))
@click.option("--to", type=click.Path(file_okay=False, path_type=Path), help="Folder to write; OUT/evaluation if none.")
@click.option("--tolerance-s", default=1.0, show_default=True, help="Between a finding and its event, by time.")
@click.option("--tolerance-m", default=0.5, show_default=True, help="The same where events are known by distance.")
@click.option("--margin-m", default=0.5, show_default=True, help="Pipe watched before and behind a finding.")
@click.option(
    "--mark", "marked", multiple=True, callback=_marks, metavar="NAME=THRESHOLD", help="A further threshold to mark."
)
def command(
    out: Path,
    truth: Path,
    to: Path | None,
    tolerance_s: float,
    tolerance_m: float,
    margin_m: float,
    marked: dict[str, float],
) -> None:
    """Compare the videos scored into OUT with TRUTH, at every threshold: how many events are found, how many findings
    show nothing, and how many metres are left to watch. Nothing is scored again.

    TRUTH is a CSV file, `video,start_m,end_m,code` or `video,start_s,end_s,code`, in which a video without anything to
    find has a row without numbers; or a folder with the truths of simulated inspections (NAME.truth.json).

    \b
    Examples:
      pipeprobe evaluate findings/ observations.csv
      pipeprobe evaluate findings/ simulated-videos/ --mark strict=0.9
    """
    if not (0 <= tolerance_s <= 3600 and 0 <= tolerance_m <= 1000 and 0 <= margin_m <= 1000):
        raise ConfigError("tolerances and margin must be 0 or more, and no more than 3600 s and 1000 m")
    documents, _ = read_finished(out)
    scored = put_together(documents, read_truth(truth), tolerances={"time": tolerance_s, "distance": tolerance_m})
    allowances = Allowances(tolerance=tolerance_s if scored.axis == "time" else tolerance_m, margin_m=margin_m)
    folder = to or out / "evaluation"
    about = {"truth": truth.name, "truth_sha256": sha256_file(truth)} if truth.is_file() else {"truth": truth.name}
    try:
        summary = write_evaluation(folder, scored, allowances, marked=marked, about=about)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from error
    _report(summary, scored)
    click.echo(f"written to {folder}; open {folder / CURVE_SVG}")


def _report(summary: Summary, scored: Scored) -> None:
    for names, why in ((scored.unknown, "TRUTH says nothing of it"), (scored.unscored, "OUT does not have it")):
        for name in names:
            click.echo(f"warning: {name} is left out: {why}", err=True)
    table = Table(title=f"{summary.inspections} inspections, {summary.metres:.1f} m, {summary.events} events")
    for heading in ("operating point", "opens at", "events found", "false findings per 100 m", "pipe to watch"):
        table.add_column(heading, justify="left" if heading == "operating point" else "right")
    for mark in (summary.chosen, *summary.marks):
        false = mark.false_per_100m
        table.add_row(
            mark.name,
            f"{mark.threshold:.3f}",
            percent(mark.recall),
            f"{false.value:.1f} ({false.low:.1f} to {false.high:.1f})",
            percent(mark.watched_share),
        )
    Console(soft_wrap=True).print(table)
    for line in lines_of(summary):
        click.echo(line)
