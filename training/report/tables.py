"""The tables of figures: per method, backbone and proportion, with mean ± sd over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from training.report.anova import Anova
from training.report.cells import Cell, Grid, Readable, Response
from training.report.document import Group, Row, Strong, Table
from training.report.names import (
    METRICS,
    SAME,
    data_label,
    encoder_label,
    group_label,
    kind_of,
    method_label,
    method_order,
    proportion_label,
    trained_label,
)
from training.report.names import RULES as RULE_LABELS
from training.report.results import Result
from training.report.statistics import spread
from training.report.wording import NOTHING, cell_text, duration_text, figure, p_text, spread_text

# Columns of the long tables beside F1 on train: metric -> whether it needs a threshold.
_LONG = {
    "f1": True,
    "f2": True,
    "f1_normal": True,
    "f2_ciw_binary": True,
    "precision": True,
    "recall": True,
    "auroc": False,
    "average_precision": False,
}


def pivot(grid: Grid, response: Readable) -> Table:
    """Methods and backbones under each other, proportions side by side.

    The best self-supervised mean of each backbone and proportion stands out.
    """
    best = {(e, share): _best(grid, e, share, response) for e in grid.encoders for share in grid.proportions}

    def rows(method: str) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for encoder in grid.encoders:
            cells = [Cell(method=method, encoder=encoder, proportion=share) for share in grid.proportions]
            if any(map(grid.planned, cells)):
                texts = (
                    Strong(text) if method == best[encoder, cell.proportion] else text
                    for cell, text in ((cell, cell_text(grid, cell, response)) for cell in cells)
                )
                found.append((method_label(method), encoder_label(encoder), *texts))
        return found

    return Table(
        caption=response.label,
        columns=("method", "backbone", *(trained_label(share) for share in grid.proportions)),
        rows=_grouped(grid.methods, rows),
        left=2,
    )


def long_table(grid: Grid, encoder: str, data: str, rule: str) -> Table:
    """Every metric of every cell on one backbone, data set and threshold rule; F1 on train beside them."""
    columns = {"F1 on train": Response(data="train", metric="f1", rule=rule)}
    for metric, needs_threshold in _LONG.items():
        columns[METRICS[metric]] = Response(data=data, metric=metric, rule=rule if needs_threshold else None)

    def rows(method: str) -> list[tuple[str, ...]]:
        cells = [Cell(method=method, encoder=encoder, proportion=share) for share in grid.proportions]
        return [_long_row(grid, cell, list(columns.values())) for cell in cells if grid.planned(cell)]

    return Table(
        caption=f"{encoder_label(encoder)}, {data_label(data)}, {RULE_LABELS[rule]}",
        columns=("method", "trained", "runs", *columns),
        rows=_grouped(grid.methods, rows),
        left=2,
    )


def precision_table(grid: Grid, share: float) -> Table:
    """What a user of a verdict lives with where `share` of the frames show a defect."""

    def rows(method: str) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for encoder in grid.encoders:
            cell = Cell(method=method, encoder=encoder, proportion=share)
            parts = [
                spread_text(spread([100 * value for value in grid.values(cell, response)]), digits=1)
                for rule in RULE_LABELS
                for response in verdict_responses(rule)
            ]
            if grid.planned(cell):
                runs = len(grid.values(cell, verdict_responses("published")[0]))
                found.append((method_label(method), encoder_label(encoder), str(runs), *parts))
        return found

    columns = [
        f"{text}, {label}"
        for label in RULE_LABELS.values()
        for text in ("of 100 flagged frames show a defect", "of 100 defects are flagged")
    ]
    return Table(
        caption=f"Trained and validated at {proportion_label(share)} defects: what a verdict is worth",
        columns=("method", "backbone", "runs", *columns),
        rows=_grouped(grid.methods, rows),
        left=2,
    )


def verdict_responses(rule: str) -> tuple[Response, Response]:
    """Precision and recall on validation at the proportion of training."""
    return (
        Response(data=SAME, metric="precision", rule=rule),
        Response(data=SAME, metric="recall", rule=rule),
    )


def anova_table(caption: str, analyses: Sequence[tuple[str, Anova]]) -> Table:
    """Effects of several analyses, each under its name."""
    rows: list[Row] = []
    for name, analysis in analyses:
        rows.append(Group(text=f"{name}: {analysis.n} runs, {'equal' if analysis.balanced else 'unequal'} cells"))
        for effect in analysis.effects:
            mean_square = effect.ss / effect.df
            shares = (effect.eta2, effect.partial_eta2, effect.omega2)
            rows.append(
                (
                    " x ".join(effect.term),
                    str(effect.df),
                    f"{effect.ss:.4f}",
                    f"{mean_square:.4f}",
                    f"{effect.f:.2f}",
                    p_text(effect.p),
                    *(figure(share) for share in shares),
                )
            )
        error = (str(analysis.error_df), f"{analysis.error_ss:.4f}", f"{analysis.error_ss / analysis.error_df:.4f}")
        rows.append(("error", *error, *[""] * 5))
        rows.append(("total", str(analysis.n - 1), f"{analysis.total_ss:.4f}", *[""] * 6))
    columns = ("term", "df", "SS", "MS", "F", "p", "eta^2", "partial eta^2", "omega^2")
    return Table(caption=caption, columns=columns, rows=tuple(rows))


def time_table(grid: Grid) -> Table:
    """How long runs took: by method and backbone, over all proportions and seeds."""

    def rows(method: str) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for encoder in grid.encoders:
            results = [r for r in grid.study.results if (r.method, r.identity.encoder) == (method, encoder)]
            if results:
                found.append((method_label(method), encoder_label(encoder), str(len(results)), *_times(results)))
        return found

    return Table(
        caption="Wall time of a run, and speed of its pretraining",
        columns=("method", "backbone", "runs", "a run took, mean", "all together", "pretraining, frames/s"),
        rows=_grouped(grid.methods, rows),
        left=2,
    )


def _times(results: Sequence[Result]) -> tuple[str, str, str]:
    walls = [result.wall_time_s for result in results]
    speeds = [r.pretraining["frames_per_s"] for r in results if r.pretraining and r.pretraining.get("frames_per_s")]
    speed = NOTHING if not speeds else spread_text(spread(speeds), digits=0)
    return duration_text(sum(walls) / len(walls)), duration_text(sum(walls)), speed


def _long_row(grid: Grid, cell: Cell, columns: Sequence[Readable]) -> tuple[str, ...]:
    results = grid.runs(cell)
    with_figures = [result for result in results if result.evaluations]
    planned = grid.planned(cell)
    runs = str(planned) if len(with_figures) == planned else f"{len(with_figures)}/{planned}"
    figures = (spread_text(spread(grid.values(cell, column))) for column in columns)
    return (method_label(cell.method), trained_label(cell.proportion), runs, *figures)


def _best(grid: Grid, encoder: str, share: float | None, response: Readable) -> str | None:
    """The self-supervised method with the highest mean, where there are several."""
    means = {}
    for method in grid.methods:
        found = spread(grid.values(Cell(method=method, encoder=encoder, proportion=share), response))
        if found is not None and kind_of(method) == "ssl":
            means[method] = found.mean
    return max(means, key=lambda method: means[method]) if len(means) > 1 else None


def _grouped(methods: Sequence[str], rows_of: Callable[[str], list[tuple[str, ...]]]) -> tuple[Row, ...]:
    """The rows of each method in the order of every table, under the name of its group."""
    rows: list[Row] = []
    group = None
    for method in method_order(methods):
        found = rows_of(method)
        if found and group_label(method) != group:
            group = group_label(method)
            rows.append(Group(text=group))
        rows += found
    return tuple(rows)
