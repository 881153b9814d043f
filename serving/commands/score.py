"""`pipeprobe score`: image files to verdicts, as a table, CSV or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serving.durable import write_bytes_atomic, write_text_atomic
from serving.errors import ConfigError, FrameError
from serving.frames import DEFAULT_LIMITS, decode_full, read_image_bytes
from serving.image_files import FileFailure, FileScore, collect_files, score_files
from serving.inspections.overlay import draw_evidence, encode_png
from serving.pairs.golden import verify_golden
from serving.pairs.pair import OperatingPoint, Pair, find_pair, models_root
from serving.progress import track_progress
from serving.scorer import Scorer

_COLUMNS = (
    "file",
    "verdict",
    "score",
    "logit",
    "operating_point",
    "threshold",
    "pair",
    "pair_version",
    "variant",
    "error",
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--pair", "pair_name", metavar="NAME[@VERSION]", help="Pair to score with.  [default: models/index.json's]"
)
@click.option("--operating-point", metavar="NAME", help="Threshold of the verdict.  [default: the pair's own]")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:INDEX; used or refused.")
@click.option(
    "--variant",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="Precision.  [default: int8 on a CPU, fp16 on a GPU, where the pair has it, else fp32]",
)
@click.option("--csv", "csv_file", metavar="FILE", help="Write CSV here instead of a table; - is standard output.")
@click.option("--json", "json_file", metavar="FILE", help="Write JSON lines here instead; - is standard output.")
@click.option(
    "--evidence-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write each frame here under a heat map of where its score comes from.",
)
@click.pass_context
def command(
    ctx: click.Context,
    files: Sequence[str],
    pair_name: str | None,
    operating_point: str | None,
    device: str,
    variant: str | None,
    csv_file: str | None,
    json_file: str | None,
    evidence_dir: Path | None,
) -> None:
    """Score image FILES: pictures, folders of them (searched recursively) or quoted glob patterns.

    A file that cannot be decoded is reported and the others are scored. The exit code is 0 if all were
    scored, 1 if some were not, 2 if nothing could be started. Pairs are looked for in $PIPEPROBE_MODELS, else
    in models/.

    \b
    Examples:
      pipeprobe score frame.jpg
      pipeprobe score footage/ --operating-point recall_95 --csv verdicts.csv
      pipeprobe score 'footage/**/*.png' --json - --evidence-dir evidence/
    """
    images = collect_files(files)
    pair = find_pair(models_root(), pair_name)
    point = pair.manifest.operating_point(operating_point)
    scorer = Scorer(pair, device=device, variant=variant)
    verify_golden(scorer)
    overlays = None if evidence_dir is None else _Overlays(evidence_dir, pair)
    results: list[FileScore | FileFailure] = []
    with track_progress("scoring", total=len(images), unit="frames") as advance:
        for result in score_files(images, scorer, point.threshold):
            if overlays is not None and isinstance(result, FileScore):
                result = overlays.write(result)
            results.append(result)
            advance()
    rows = [_row(result, point, scorer) for result in results]
    if csv_file is not None:
        _write(csv_file, _as_csv(rows))
    if json_file is not None:
        _write(json_file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    if csv_file is None and json_file is None:
        _print_table(rows, point, scorer)
    ctx.exit(_report_failures(results))


class _Overlays:
    """Writes evidence pictures under names that no two files share."""

    def __init__(self, folder: Path, pair: Pair) -> None:
        self._folder = folder
        self._calibration = pair.manifest.calibration
        self._taken: set[Path] = set()

    def write(self, result: FileScore) -> FileScore | FileFailure:
        label = result.file.label
        target = label.with_name(f"{label.name}.evidence.png")
        copy = 2
        while target in self._taken:
            target = label.with_name(f"{label.name}.{copy}.evidence.png")
            copy += 1
        self._taken.add(target)
        try:
            # Decoded a second time, at its own size: holding every original until its score is known would
            # not fit into memory for a folder of any size.
            frame = decode_full(read_image_bytes(result.file.path, DEFAULT_LIMITS))
        except FrameError as error:
            return FileFailure(file=result.file, error=error)
        overlay = draw_evidence(frame, result.evidence, self._calibration)
        try:
            write_bytes_atomic(self._folder / target, encode_png(overlay))
        except OSError as error:
            raise _cannot_write(self._folder / target, error) from error
        return result


def _row(result: FileScore | FileFailure, point: OperatingPoint, scorer: Scorer) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_COLUMNS)
    row |= {
        "file": str(result.file.path),
        "operating_point": point.name,
        "threshold": point.threshold,
        "pair": scorer.pair.name,
        "pair_version": scorer.pair.version,
        "variant": scorer.variant,
    }
    if isinstance(result, FileScore):
        row |= {"verdict": result.verdict, "score": round(result.score, 6), "logit": round(result.logit, 6)}
    else:
        row["error"] = str(result.error)
    return row


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    buffer = StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _write(target: str, text: str) -> None:
    if target == "-":
        click.echo(text, nl=False)
        return
    try:
        write_text_atomic(Path(target), text)
    except OSError as error:
        raise _cannot_write(Path(target), error) from error


def _cannot_write(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write {path}: {error.strerror}")


def _print_table(rows: Sequence[dict[str, Any]], point: OperatingPoint, scorer: Scorer) -> None:
    console = Console(soft_wrap=True)
    table = Table(
        title=f"{scorer.pair.name} {scorer.pair.version} ({scorer.variant} on {scorer.device}), "
        f"{point.name}: defect from {point.threshold:.3f}",
        title_justify="left",
    )
    table.add_column("file", overflow="fold")
    table.add_column("verdict")
    table.add_column("score", justify="right")
    for row in rows:
        file = escape(row["file"])  # a name may hold [brackets], which rich takes for its own markup
        if row["verdict"] is None:
            table.add_row(file, "[magenta]not scored[/]", "")
        else:
            colour = "red" if row["verdict"] == "defect" else "green"
            table.add_row(file, f"[{colour}]{row['verdict']}[/]", f"{row['score']:.3f}")
    console.print(table)


def _report_failures(results: Sequence[FileScore | FileFailure]) -> int:
    """Name every file that was not scored on standard error; the exit code."""
    failures = [result for result in results if isinstance(result, FileFailure)]
    for failure in failures:
        click.echo(f"error: {failure.file.path} {failure.error}", err=True)
    if failures:
        click.echo(f"{len(failures)} of {len(results)} files could not be scored", err=True)
    return 1 if failures else 0
