"""`pipeprobe review`: what people decided about findings, handed over to training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from serving.errors import ConfigError
from serving.inspections.review import match_reviews, write_dataset, write_labels
from serving.inspections.review_file import Review, read_review


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Turn reviews of findings into labelled frames.

    \b
    Example:
      pipeprobe review import run-17.mpg.review.json --videos inspections/ --labels labels.csv
    """


@command.command("import")
@click.argument("reviews", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--videos",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the videos, searched with all below it; they are only read.",
)
@click.option(
    "--labels",
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV of labelled intervals to write, for pipeprobe-train retrain --labels.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Data set to write, in Sewer-ML's format."
)
@click.option(
    "--skip-uncoded",
    is_flag=True,
    help="Leave accepted findings without one of Sewer-ML's class codes out of the data set, instead of stopping.",
)
def import_reviews(
    reviews: tuple[Path, ...], videos: Path, labels: Path | None, out: Path | None, skip_uncoded: bool
) -> None:
    """Make labels of REVIEWS, the files that reports save: accepted findings are defects, rejected ones normal.

    Every video is found by its name and must have the SHA-256 that was reviewed. Findings that nobody decided make no
    labels. Sewer-ML's format needs a class code for each defect; --labels does not.

    \b
    Examples:
      pipeprobe review import reviews/*.json --videos inspections/ --labels labels.csv
      pipeprobe review import reviews/*.json --videos inspections/ --out reviewed/
    """
    if labels is None and out is None:
        raise ConfigError("name what to write: --labels FILE, --out FOLDER, or both")
    read = [read_review(path) for path in dict.fromkeys(reviews)]
    matched = match_reviews(read, videos)
    click.echo(f"{len(read)} reviews of {len(matched)} videos: {_count(read)}")
    try:
        if out is not None:
            written = write_dataset(
                out, matched, skip_uncoded=skip_uncoded, done=lambda video: click.echo(f"read {video.name}", err=True)
            )
            left_out = f"; {written.left_out} accepted findings without a class left out" if written.left_out else ""
            click.echo(f"{out}: {written.defect} frames with a defect, {written.normal} normal{left_out}")
        if labels is not None:
            click.echo(f"{labels}: {write_labels(labels, matched)} labelled intervals")
    except OSError as error:
        raise ConfigError(f"{error.filename or out or labels} cannot be written: {error.strerror or error}") from error


def _count(reviews: Sequence[Review]) -> str:
    counts = Counter(each.decision for review in reviews for each in review.decisions)
    return f"{counts['accepted']} accepted, {counts['rejected']} rejected, {counts['unreviewed']} undecided"
