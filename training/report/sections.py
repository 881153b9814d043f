"""The report, section by section; scores and analyses have files of their own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from training.report.analysis_sections import effect_section, label_free_section
from training.report.cells import PAPER_F1, Cell, Grid
from training.report.claims import MEANING, Claim
from training.report.csv_files import CLASSES, LABEL_FREE, RESULTS
from training.report.document import Badge, Block, Bullets, Code, Details, Heading, Paragraph, Table
from training.report.judges import HELD, NOT_HELD, NOT_TESTED, Judgement
from training.report.names import encoder_label, kind_of, method_label, trained_label
from training.report.results import STATUSES, Study
from training.report.score_sections import class_section, precision_section, score_section
from training.report.statistics import spread
from training.report.tables import time_table
from training.report.wording import NOTHING, cell_text, counts_text, duration_text, listed

TITLE = "Self-supervised defect scoring under imbalance: a study"
# Digests and commands are longer than anybody compares by eye.
DIGEST_SHOWN = 16
_PACK_FACTS = ("source", "frames", "defect", "normal", "unlabelled", "inspections", "digest")


def report_blocks(grid: Grid, judged: Sequence[tuple[Claim, Judgement]]) -> list[Block]:
    """The whole report; its first block is the title."""
    return [
        Heading(level=1, text=TITLE),
        *_in_short(grid, judged),
        *_claims(judged),
        *_what_was_run(grid),
        *score_section(grid),
        *precision_section(grid),
        *effect_section(grid),
        *label_free_section(grid),
        *class_section(grid),
        *_record(grid),
    ]


def progress(study: Study) -> str:
    """How much of the plan has a result; an unfinished study is said to be so."""
    counts = [(sum(result.status == status for result in study.results), status) for status in STATUSES]
    parts = ", ".join(f"{count} {status}" for count, status in counts if count)
    text = f"{len(study.results)} of {len(study.planned)} planned runs have a result ({parts})"
    if len(study.results) == len(study.planned):
        return f"{text}: the study is complete."
    rest = f"{len(study.unfinished)} started and not finished, {len(study.not_started)} not started"
    return f"{text}; {rest}. The study is unfinished: every figure is of the runs that are there."


def verdict_counts(judgements: Iterable[Judgement]) -> str:
    """`2 held, 3 not held (1 of them undecided), 2 not tested`."""
    found = list(judgements)
    counts = {verdict: sum(each.verdict == verdict for each in found) for verdict in (HELD, NOT_HELD, NOT_TESTED)}
    texts = {verdict: f"{count} {verdict}" for verdict, count in counts.items()}
    undecided = sum(each.undecided for each in found)
    if undecided:
        texts[NOT_HELD] += f" ({undecided} of them undecided)"
    return ", ".join(texts.values())


def _in_short(grid: Grid, judged: Sequence[tuple[Claim, Judgement]]) -> list[Block]:
    counted = verdict_counts(judgement for _, judgement in judged)
    items = (progress(grid.study), f"Of the published study's {len(judged)} claims on these data: {counted}.")
    rows = tuple(row for share in grid.proportions if (row := _best_row(grid, share)))
    table = Table(
        caption=f"The best self-supervised mean of {PAPER_F1.label}, and the baselines on its backbone",
        columns=("trained", "method", "backbone", "its F1", "random weights", "supervised"),
        rows=rows,
        left=3,
    )
    return [Heading(level=2, text="In short"), Bullets(items=items), *([table] if rows else [])]


def _best_row(grid: Grid, share: float | None) -> tuple[str, ...]:
    """Empty where no self-supervised run has the figure."""
    found = {cell: spread(grid.values(cell, PAPER_F1)) for cell in grid.cells if cell.proportion == share}
    means = {cell: each.mean for cell, each in found.items() if each is not None and kind_of(cell.method) == "ssl"}
    if not means:
        return ()
    best = max(means, key=lambda cell: means[cell])
    cells = [Cell(method=m, encoder=best.encoder, proportion=share) for m in (best.method, "random", "supervised")]
    names = (trained_label(share), method_label(best.method), encoder_label(best.encoder))
    return (*names, *(cell_text(grid, cell, PAPER_F1) for cell in cells))


def _claims(judged: Sequence[tuple[Claim, Judgement]]) -> list[Block]:
    rows = tuple((claim.text, Badge(judgement.label), judgement.finding) for claim, judgement in judged)
    blocks: list[Block] = [
        Heading(level=2, text="The published study's claims"),
        Table(
            caption="Each claim on these data", columns=("claim", "verdict", "finding"), rows=rows, left=3, prose=True
        ),
        Paragraph(text=MEANING, note=True),
    ]
    for claim, judgement in judged:
        blocks.append(Heading(level=3, text=f"{claim.text}: {judgement.label}"))
        blocks.append(Paragraph(text=f"Rule: {claim.rule}"))
        blocks.append(Paragraph(text=f"Finding: {judgement.finding}"))
        if judgement.missing:
            blocks.append(Paragraph(text=f"Missing: {judgement.missing}."))
        if judgement.rows:
            blocks.append(
                Table(caption="Its numbers", columns=judgement.columns, rows=judgement.rows, left=judgement.left)
            )
    return blocks


def _what_was_run(grid: Grid) -> list[Block]:
    study = grid.study
    settings = [*study.settings.items(), ("image_size", study.image_size)]
    return [
        Heading(level=2, text="What was run"),
        Paragraph(text=progress(study)),
        Table(
            caption="Settings",
            columns=("setting", "value"),
            rows=tuple((f"`{name}`", _value(value)) for name, value in settings),
            left=2,
            prose=True,
        ),
        Table(
            caption="Data",
            columns=("split", *_PACK_FACTS),
            rows=tuple((split, *_pack_cells(facts)) for split, facts in study.data.items()),
            left=2,
        ),
        Table(
            caption="Training subsets, over methods, backbones and seeds",
            columns=("trained", "runs", "frames", "defects", "normals"),
            rows=tuple(_subset_rows(grid)),
        ),
    ]


def _pack_cells(facts: Mapping[str, Any]) -> tuple[str, ...]:
    texts = {name: _value(facts.get(name)) for name in _PACK_FACTS}
    return tuple(text[:DIGEST_SHOWN] if name == "digest" else text for name, text in texts.items())


def _subset_rows(grid: Grid) -> Iterable[tuple[str, ...]]:
    for share in grid.proportions:
        trained = [result.train for result in grid.study.results if result.identity.defect_proportion == share]
        counts = (counts_text(facts.get(key) for facts in trained) for key in ("frames", "defect", "normal"))
        yield (trained_label(share), str(len(trained)), *counts)


def _record(grid: Grid) -> list[Block]:
    """Everything that it takes to make the figures again, and the runs that have none."""
    study = grid.study
    total_s = sum(result.wall_time_s for result in study.results)
    packages = (", ".join(f"{name} {version}" for name, version in sorted(r.packages.items())) for r in study.results)
    made_with = {
        "hardware": (result.hardware for result in study.results),
        "git revision": (result.git_revision for result in study.results),
        "packages": packages,
    }
    rows = tuple((name, value, str(count)) for name, values in made_with.items() for value, count in _counted(values))
    commands = "\n".join(command for command, _ in _counted(result.command for result in study.results))
    return [
        Heading(level=2, text="Runs, time and how to make this again"),
        Paragraph(
            text=f"Wall time of all results together: {duration_text(total_s)}, as the sum over runs, whether they "
            "ran one after the other or side by side."
        ),
        time_table(grid),
        Table(caption="Made with", columns=("", "", "runs"), rows=rows, left=2, prose=True),
        Paragraph(text="Commands that made the results, then the one that made this report:"),
        Code(text=f"{commands}\npipeprobe-train report RUNS --out FOLDER"),
        *_odd_runs(study),
        Paragraph(
            text=f"`{RESULTS}` holds every figure of every run that was started, `{LABEL_FREE}` the label-free "
            f"metrics, `{CLASSES}` the class probes. Nothing was left out or averaged there."
        ),
    ]


def _odd_runs(study: Study) -> list[Block]:
    """Runs that did not end as planned, by what became of them."""
    groups = {
        "Collapsed (their figures are in all means)": [r.id for r in study.results if r.status == "collapsed"],
        "Diverged (they have no figures)": [r.id for r in study.results if r.status == "diverged"],
        "Started, not finished": list(study.unfinished),
        "Not started": list(study.not_started),
    }
    found = [f"{name}: {len(ids)}" for name, ids in groups.items() if ids]
    if not found:
        return [Paragraph(text="Every planned run finished; none collapsed or diverged.")]
    lists = tuple(
        Paragraph(text=f"{name}: {listed([f'`{each}`' for each in ids], most=len(ids))}")
        for name, ids in groups.items()
        if ids
    )
    return [Details(summary=f"Runs that did not end as planned. {'. '.join(found)}", blocks=lists)]


def _counted(values: Iterable[str]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return list(counts.items())


def _value(value: Any) -> str:
    """A setting for reading: a list without brackets, nothing as a dash."""
    if value is None:
        return NOTHING
    if isinstance(value, list):
        return ", ".join("whole split" if item is None else _value(item) for item in value) or NOTHING
    return value if isinstance(value, str) else json.dumps(value)
