"""`pipeprobe report`: pages for people, from what `pipeprobe videos` has written."""

from __future__ import annotations

from pathlib import Path

import click

from serving.errors import ConfigError
from serving.inspections.batch_files import INDEX_FILE
from serving.report.write import write_reports


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(exists=True, file_okay=False, path_type=Path))
def command(out: Path) -> None:
    """Write report.html of each video scored into OUT, and OUT/index.html, without scoring anything.

    `pipeprobe videos` does so itself; this is for outputs of earlier releases, and after folders were moved together.
    The pages open from disk in any browser, with no server and no network.

    \b
    Example:
      pipeprobe report findings/
    """
    try:
        n_videos, left_out = write_reports(out)
    except OSError as error:
        raise ConfigError(f"cannot write to {out}: {error.strerror or error}") from error
    for folder in left_out:
        click.echo(f"warning: {folder} was written by another release: score its video again", err=True)
    click.echo(f"{n_videos} reports written; open {out / INDEX_FILE}")
