"""`pipeprobe demo`: the product in one command, on shipped samples."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    help="Where the findings of the sample inspection are written.",
)
def command(out: Path) -> None:
    """Serve the default pair, score the shipped sample frames over HTTP and the shipped sample inspection with
    the batch scorer, compare with the known truth, print the service's latencies, and stop.

    Exits with 1 if the findings miss the truth by more than the tolerances that are printed.

    \b
    Example:
      pipeprobe demo --out demo-out
    """
    from serving.demo import run_demo

    if not run_demo(out):
        raise SystemExit(1)
