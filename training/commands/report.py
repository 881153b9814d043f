"""`pipeprobe-train report`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from training.report.build import HTML, Report, write_report
from training.report.sections import progress


@click.command()
@click.argument("runs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder that the report goes to; made if it is not there.",
)
def command(runs: Path, out: Path) -> None:
    """Turn the results of a study into its tables, figures and verdicts.

    RUNS is the folder that `pipeprobe-train sweep` wrote. An unfinished study gives a report, too, which says so.
    Writes report.html (one file that opens anywhere), report.md, the figures as SVG and PNG, and results.csv,
    label_free.csv and classes.csv with every single run. The same results give the same bytes.

    \b
    Example:
      pipeprobe-train report runs/study --out report
    """
    report = write_report(runs, out)
    console = Console()
    console.print(progress(report.study))
    console.print(claim_table(report))
    console.print(f"wrote {out / HTML} and {len(report.files) - 1} files beside it", soft_wrap=True)


def claim_table(report: Report) -> Table:
    """Each claim with its verdict."""
    table = Table(title="The published study's claims on these data")
    table.add_column("claim")
    table.add_column("verdict")
    for claim, judgement in report.judged:
        table.add_row(claim.text, judgement.label)
    return table
