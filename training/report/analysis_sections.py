"""The sections with analyses: method effect against backbone effect, label-free metrics against F1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.report import figures, label_free
from training.report.anova import Anova, NotPossibleError
from training.report.cells import BALANCED_F1, PAPER_F1, Grid, Response
from training.report.document import Block, Bullets, Heading, Paragraph, Table
from training.report.judges import factorial
from training.report.names import LABEL_FREE, encoder_label, method_label, method_order, trained_label
from training.report.results import Result
from training.report.statistics import Correlation
from training.report.tables import anova_table
from training.report.wording import correlation_text, counts_text, figure

NATURAL_AP = Response(data="val_natural", metric="average_precision")
BALANCED_AUROC = Response(data="val_balanced", metric="auroc")


def effect_section(grid: Grid) -> list[Block]:
    """Two-way (and with proportion, three-way) analyses of variance."""
    analyses, impossible = _analyses(grid)
    blocks: list[Block] = [
        Heading(level=2, text="Method effect against backbone effect"),
        Paragraph(
            text="Analysis of variance over the self-supervised runs by comparing least-squares fits. Sums of "
            "squares are of Type II: each term beyond all terms that do not contain it, which allows unequal and "
            "empty cells; they then need not add up to the total. The error is what the full model leaves. MAE and "
            "masked conv, this project's stand-in for it on ResNet-18, count as one method. F1 is bounded and its "
            "variance differs between cells: take the sizes seriously and p values loosely."
        ),
    ]
    if analyses:
        blocks += [figures.effects(analyses), anova_table("Effects", analyses)]
    if impossible:
        blocks.append(Bullets(items=tuple(f"Not possible for {name}: {reason}." for name, reason in impossible)))
    return blocks


def _analyses(grid: Grid) -> tuple[list[tuple[str, Anova]], list[tuple[str, str]]]:
    """Analyses by name; then those that the runs do not allow, with the reason."""
    wanted = [
        (f"{response.label}, all proportions", response, grid.ssl_results())
        for response in (PAPER_F1, BALANCED_F1, NATURAL_AP)
    ]
    if set(grid.families()) != set(grid.families(paper_only=True)):
        name = f"{PAPER_F1.label}, all proportions, the published study's methods alone"
        wanted.insert(0, (name, PAPER_F1, grid.ssl_results(paper_only=True)))
    for share in grid.proportions:
        at = [result for result in grid.ssl_results() if result.identity.defect_proportion == share]
        wanted.append((f"{PAPER_F1.label}, trained {trained_label(share)}", PAPER_F1, at))
    possible, impossible = [], []
    for name, response, results in wanted:
        known = [result for result in results if response.of(result) is not None]
        try:
            values = np.array([response.of(result) for result in known], dtype=np.float64)
            possible.append((name, factorial(known).analyse(values)))
        except NotPossibleError as reason:
            impossible.append((name, str(reason)))
    return possible, impossible


def label_free_section(grid: Grid) -> list[Block]:
    """Scatter plots, rank correlations and the floor that seeds set."""
    results = [result for result in grid.ssl_results() if BALANCED_F1.of(result) is not None]
    metrics = label_free.measured_metrics(results)
    if not metrics:
        return []
    rows = [(LABEL_FREE[metric], _correlations(grid, results, metric)) for metric in metrics]
    frames = counts_text(result.train.get("frames") for result in results)
    return [
        Heading(level=2, text="Which label-free metric predicts F1"),
        Paragraph(
            text=f"Against {BALANCED_F1.label}, over the self-supervised runs. Spearman's rho is positive where a "
            "metric works as its authors mean it: values are negated where lower is meant to be better, and "
            "alpha-ReQ counts by its distance from 1. The metrics were measured without labels on frames of the "
            f"training subsets ({frames} frames). Pooled and within a backbone, the interval resamples whole method "
            "x backbone pairs, because runs of one pair are no independent evidence; within a pair it resamples "
            "runs."
        ),
        figures.scatter(grid, metrics, BALANCED_F1),
        figures.correlations(rows),
        Table(
            caption="Spearman's rho with F1 (95 % interval)",
            columns=("metric", *rows[0][1], "pooled, with AUROC instead"),
            rows=tuple(
                (
                    label,
                    *(correlation_text(each) for each in found.values()),
                    correlation_text(label_free.rank_correlation(results, metric, BALANCED_AUROC)),
                )
                for metric, (label, found) in zip(metrics, rows, strict=True)
            ),
        ),
        _floor_table(results, metrics),
        _pair_table(grid, results, metrics),
    ]


def _correlations(grid: Grid, results: Sequence[Result], metric: str) -> dict[str, Correlation | None]:
    """By way of grouping; the names say how many runs and pairs there are."""
    pairs = label_free.pairs_of(results)
    found = {f"pooled (n = {len(results)})": label_free.rank_correlation(results, metric, BALANCED_F1)}
    for encoder in grid.encoders:
        on = [result for result in results if result.identity.encoder == encoder]
        name = f"{encoder_label(encoder)} (n = {len(on)})"
        found[name] = label_free.rank_correlation(on, metric, BALANCED_F1)
    name = f"mean within method x backbone ({len(pairs)} pairs)"
    found[name] = label_free.within_correlation(results, metric, BALANCED_F1)
    return found


def _floor_table(results: Sequence[Result], metrics: Sequence[str]) -> Table:
    """What seeds alone do to each metric, beside its spread over everything."""

    def row(label: str, floor: float | None, whole: float) -> tuple[str, ...]:
        share = None if floor is None or whole == 0 else floor / whole
        return (label, "unknown" if floor is None else f"{floor:.3g}", f"{whole:.3g}", figure(share, 2))

    rows = []
    for metric in metrics:
        known = label_free.with_both(results, metric, BALANCED_F1)
        floor, f1_floor = label_free.seed_deviations(known, metric, BALANCED_F1)
        values, f1 = label_free.values_of(known, metric, BALANCED_F1)
        rows.append(row(LABEL_FREE[metric], floor, float(values.std())))
        last = row("F1", f1_floor, float(f1.std()))
    return Table(
        caption="The floor: how much a retraining with another seed moves a metric. What differs by less says nothing",
        columns=("metric", "sd over seeds, within a cell", "sd over all runs", "the former by the latter"),
        rows=(*rows, last),
    )


def _pair_table(grid: Grid, results: Sequence[Result], metrics: Sequence[str]) -> Table:
    pairs = label_free.pairs_of(results)
    order = [(method, encoder) for method in method_order(method for method, _ in pairs) for encoder in grid.encoders]
    rows = []
    for pair in order:
        if pair in pairs:
            found = (label_free.pair_correlation(pairs[pair], metric, BALANCED_F1) for metric in metrics)
            names = (method_label(pair[0]), encoder_label(pair[1]), str(len(pairs[pair])))
            rows.append((*names, *map(correlation_text, found)))
    return Table(
        caption="Spearman's rho within each method x backbone pair, over proportions and seeds (95 % interval)",
        columns=("method", "backbone", "runs", *(LABEL_FREE[metric] for metric in metrics)),
        rows=tuple(rows),
        left=2,
    )
