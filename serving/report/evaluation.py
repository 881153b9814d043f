"""An evaluation to disk.

    curve.csv         a row a threshold
    curve.svg         the curve, the chosen operating point marked
    evaluation.json   what is to be said of it, and what was evaluated
    evaluation.md     the same for people

The same scored folders, truth and settings make the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.durable import write_json_atomic, write_text_atomic
from serving.formats import csv_rows
from serving.inspections.evaluation import Scored
from serving.inspections.review_curve import Allowances, sweep
from serving.report.curve_figure import catching_words, draw_curve
from serving.report.evaluation_summary import Mark, Summary, as_document, curve_rows, percent, summarise

CURVE_CSV, CURVE_SVG = "curve.csv", "curve.svg"
EVALUATION_JSON, EVALUATION_MD = "evaluation.json", "evaluation.md"


def write_evaluation(
    folder: Path, scored: Scored, allowances: Allowances, *, marked: Mapping[str, float], about: Mapping[str, Any]
) -> Summary:
    """Write the files into `folder`, the summary last.

    `marked` are further thresholds by name, `about` what `evaluation.json` says besides. Raises `OSError`.
    """
    curve = sweep(scored.inspections, scored.rules, allowances, marked=tuple(marked.values()))
    summary = summarise(scored, curve, allowances, marked)
    csv_rows.write_rows(folder / CURVE_CSV, *curve_rows(curve))
    write_text_atomic(folder / CURVE_SVG, draw_curve(curve, summary))
    write_json_atomic(folder / EVALUATION_JSON, as_document(summary, scored, about))
    write_text_atomic(folder / EVALUATION_MD, _markdown(summary, scored))
    return summary


def lines_of(summary: Summary) -> list[str]:
    """What it takes to catch nearly all, a line each."""
    return [catching_words(each) for each in summary.to_catch]


def _markdown(summary: Summary, scored: Scored) -> str:
    scoring, unit = scored.scoring, "s" if summary.axis == "time" else "m"
    rows = [_row(mark) for mark in (summary.chosen, *summary.marks)]
    sources = {"truth": "known", "scored": "from the scored frames"}
    distances = ", ".join(f"{n} {sources[name]}" for name, n in scored.distances.items() if n)
    return "\n".join(
        [
            "# Events found, and what they cost",
            "",
            f"{summary.inspections} inspections, {summary.metres:.1f} m of pipe, {summary.events} events. Scored with "
            f"{scoring['pair']} {scoring['pair_version']} ({scoring['variant']}), at the operating point "
            f"{summary.chosen.name}.",
            "",
            f"![Events found against false findings and metres to watch]({CURVE_SVG})",
            "",
            "| operating point | opens at | events found | false findings per 100 m | pipe to watch |",
            "|---|---|---|---|---|",
            *rows,
            "",
            *(f"* {line}" for line in lines_of(summary)),
            "",
            f"A finding matches an event no more than {summary.tolerance:g} {unit} away. Metres to watch are those "
            f"that findings cover and {summary.margin_m:g} m on both sides, of the pipe that was filmed. Distances: "
            f"{distances}. Intervals, in brackets, are 95 % of resamples of whole inspections; that of events found is "
            "never narrower than Wilson's for so many events.",
            "",
            "The thresholds that catch 95 % and 99 % are chosen in hindsight, on these very inspections; a threshold "
            "chosen beforehand costs what its row of the table says.",
            "",
        ]
    )


def _row(mark: Mark) -> str:
    false = mark.false_per_100m
    return (
        f"| {mark.name} | {mark.threshold:.3f} | {percent(mark.recall)} | "
        f"{false.value:.1f} ({false.low:.1f} to {false.high:.1f}) | {percent(mark.watched_share)} |"
    )
