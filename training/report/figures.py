"""The report's figures, as SVG and PNG; the same results give the same bytes.

Colours and markers belong to methods, the same in every figure (`names.style`); filled markers are the first backbone,
hollow ones the second. Bars are one standard deviation over seeds; a point without a bar is one seed.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from training.report import label_free
from training.report.anova import Anova
from training.report.cells import Cell, Grid, Readable
from training.report.document import Figure
from training.report.names import (
    LABEL_FREE,
    RULES,
    LineStyle,
    encoder_label,
    method_label,
    method_order,
    proportion_label,
    style,
)
from training.report.results import Result
from training.report.statistics import Correlation, spread
from training.report.tables import verdict_responses

_LOOK: Any = {
    "svg.hashsalt": "pipeprobe",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
DOTS_PER_INCH = 150
# How far apart methods stand around one proportion, in steps between proportions.
DODGE = 0.35
# Beyond this ratio of the largest to the smallest value an axis is logarithmic.
LOG_RATIO = 50.0
# Letters in a line of a long label.
LINE = 32


def by_proportion(grid: Grid, name: str, caption: str, responses: Sequence[Readable]) -> Figure:
    """One row of panels a response, one column a backbone: mean ± sd of each method over the proportions."""
    rows, columns = len(responses), len(grid.encoders)
    with mpl.rc_context(_LOOK):
        canvas = Canvas(figsize=(4.2 * columns + 2.6, 3.4 * rows + 0.3))
        axes = canvas.subplots(rows, columns, squeeze=False, sharex=True, sharey="row")
        for row, response in zip(axes, responses, strict=True):
            for panel, encoder in zip(row, grid.encoders, strict=True):
                _proportion_panel(panel, grid, encoder, response)
            row[0].set_ylabel(_broken(response.label))
        for panel, encoder in zip(axes[0], grid.encoders, strict=True):
            panel.set_title(encoder_label(encoder))
        for panel in axes[-1]:
            panel.set_xlabel("defects among the training frames")
        _method_legend(canvas, [m for m in method_order(grid.methods) if _has_values(grid, m, responses)], lines=True)
        return _rendered(canvas, name, caption)


def _proportion_panel(axes: Axes, grid: Grid, encoder: str, response: Readable) -> None:
    methods = method_order(grid.methods)
    offsets = np.linspace(-DODGE / 2, DODGE / 2, len(methods)) if len(methods) > 1 else np.zeros(1)
    for method, offset in zip(methods, offsets, strict=True):
        cells = [Cell(method=method, encoder=encoder, proportion=share) for share in grid.proportions]
        found = [(x + offset, spread(grid.values(cell, response))) for x, cell in enumerate(cells)]
        known = [(x, each) for x, each in found if each is not None]
        if known:
            look = style(method)
            axes.errorbar(
                [x for x, _ in known],
                [each.mean for _, each in known],
                yerr=[each.sd or 0.0 for _, each in known],
                color=look.colour,
                marker=look.marker,
                linestyle=look.dashes,
                linewidth=1.1,
                markersize=6,
                elinewidth=1.0,
                capsize=0,
            )
    if not axes.has_data():
        _say_no_runs(axes)
    axes.set_xticks(range(len(grid.proportions)), [proportion_label(share) for share in grid.proportions])
    axes.set_xlim(-0.5, len(grid.proportions) - 0.5)
    axes.grid(axis="x", visible=False)


def _say_no_runs(axes: Axes) -> None:
    """In a panel of a backbone that no run of has ended yet, which would otherwise look broken."""
    axes.text(0.5, 0.5, "no runs yet", transform=axes.transAxes, ha="center", va="center", color="#777777")


def effects(analyses: Sequence[tuple[str, Anova]]) -> Figure:
    """What method, backbone and both together explain in each analysis, as omega^2."""
    terms = {("method",): "#332288", ("backbone",): "#CC6677", ("method", "backbone"): "#999933"}
    height = 0.8 / len(terms)
    with mpl.rc_context(_LOOK):
        canvas = Canvas(figsize=(9.0, 0.8 * len(analyses) + 1.2))
        axes = canvas.subplots()
        for row, (term, colour) in enumerate(terms.items()):
            known = [(i, each) for i, (_, found) in enumerate(analyses) for each in found.effects if each.term == term]
            if not known:
                continue
            places = [i + (row - 1) * height for i, _ in known]
            values = [each.omega2 for _, each in known]
            axes.barh(places, values, height * 0.9, color=colour, label=" x ".join(term))
            for place, value in zip(places, values, strict=True):
                axes.text(max(value, 0) + 0.008, place, f"{value:.2f}", va="center", fontsize=8.5, color="#333333")
        axes.set_yticks(range(len(analyses)), [_broken(label) for label, _ in analyses])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.axvline(0, color="#555555", linewidth=0.8)
        axes.set_xlim(right=max(axes.get_xlim()[1] + 0.05, 0.2))
        axes.set_xlabel("omega^2: share of the variance explained, corrected for chance")
        canvas.legend(loc="outside lower center", ncols=3)
        caption = (
            "How much of the variance of F1 the method, the backbone and their interaction explain. Below 0 means less "
            "than as many levels explain by chance."
        )
        return _rendered(canvas, "effects", caption)


def verdicts(grid: Grid, share: float) -> Figure:
    """Of 100 flagged frames, how many show a defect, at both thresholds."""
    methods = [
        m for m in method_order(grid.methods) if _has_values(grid, m, [verdict_responses("published")[0]], share)
    ]
    with mpl.rc_context(_LOOK):
        canvas = Canvas(figsize=(4.2 * len(grid.encoders) + 2.2, 0.36 * len(methods) + 1.3))
        panels = canvas.subplots(1, len(grid.encoders), squeeze=False, sharex=True, sharey=True)[0]
        for panel, encoder in zip(panels, grid.encoders, strict=True):
            for row, method in enumerate(methods):
                cell = Cell(method=method, encoder=encoder, proportion=share)
                for shift, rule in zip((-0.15, 0.15), RULES, strict=True):
                    found = spread([100 * value for value in grid.values(cell, verdict_responses(rule)[0])])
                    if found is not None:
                        colour = style(method).colour
                        face = colour if rule == "published" else "white"
                        panel.errorbar(
                            found.mean, row + shift, xerr=found.sd or 0.0, color=colour, marker="o", markersize=6,
                            markerfacecolor=face, elinewidth=1.0,
                        )  # fmt: skip
            if not panel.has_data():
                _say_no_runs(panel)
            panel.axvline(100 * share, color="#555555", linewidth=1.0, linestyle=":")
            panel.set_title(encoder_label(encoder))
            panel.set_xlabel("of 100 flagged frames show a defect")
        panels[0].set_yticks(range(len(methods)), [method_label(method) for method in methods])
        panels[0].set_ylim(len(methods) - 0.5, -0.5)
        panels[0].set_xlim(left=0)
        handles = [_handle("o", "#555555", label, hollow=rule != "published") for rule, label in RULES.items()]
        handles.append(Line2D([], [], color="#555555", linestyle=":", label="flagging at random"))
        canvas.legend(handles=handles, loc="outside right upper")
        caption = (
            f"Trained and validated at {proportion_label(share)} defects: how many of 100 flagged frames show a "
            "defect. Bars: one standard deviation over seeds."
        )
        return _rendered(canvas, "precision", caption)


def scatter(grid: Grid, metrics: Sequence[str], response: Readable) -> Figure:
    """Every self-supervised run: each label-free metric against F1, with what seeds alone do as a cross."""
    results = grid.ssl_results()
    columns = min(4, len(metrics))
    rows = -(-len(metrics) // columns)
    with mpl.rc_context(_LOOK):
        canvas = Canvas(figsize=(2.7 * columns + 2.2, 2.6 * rows + 0.3))
        panels = canvas.subplots(rows, columns, squeeze=False, sharey=True)
        for panel, metric in zip(panels.flat, metrics, strict=False):
            _scatter_panel(panel, grid, results, metric, response)
        for panel in panels.flat[len(metrics) :]:
            panel.set_axis_off()
        for row in panels:
            row[0].set_ylabel(_broken(response.label))
        present = method_order(result.method for result in results if response.of(result) is not None)
        _method_legend(canvas, present, lines=False, encoders=grid.encoders)
        caption = (
            f"{response.label} against each label-free metric, one point a run; above each panel Spearman's rho over "
            "all runs, positive where the metric works as its authors mean it. The cross is one standard deviation "
            "over seeds: differences below it mean nothing."
        )
        return _rendered(canvas, "label-free", caption)


def _scatter_panel(axes: Axes, grid: Grid, results: Sequence[Result], metric: str, response: Readable) -> None:
    known = label_free.with_both(results, metric, response)
    for (method, encoder), runs in label_free.pairs_of(known).items():
        x, y = label_free.values_of(runs, metric, response)
        look = style(method)
        face = look.colour if encoder == grid.encoders[0] else "none"
        axes.scatter(
            x, y, s=26, marker=look.marker, facecolors=face, edgecolors=look.colour, linewidths=1.0, alpha=0.85
        )
    every = label_free.values_of(known, metric, response)[0]
    logarithmic = len(every) > 0 and every.min() > 0 and every.max() > LOG_RATIO * every.min()
    if logarithmic:
        axes.set_xscale("log")
    _seed_cross(axes, label_free.seed_deviations(results, metric, response), logarithmic)
    found = label_free.rank_correlation(results, metric, response)
    rho = "" if found is None else f": rho {found.rho:+.2f}, n {found.n}"
    axes.set_title(f"{LABEL_FREE.get(metric, metric)}{rho}")


def _seed_cross(axes: Axes, deviations: tuple[float | None, float | None], logarithmic: bool) -> None:
    """One standard deviation over seeds each way, in the lower right corner; it has no place on a logarithmic axis."""
    x_sd, y_sd = deviations
    if x_sd is None or y_sd is None or logarithmic:
        return
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x, y = right - x_sd - 0.03 * (right - left), bottom + y_sd + 0.03 * (top - bottom)
    axes.errorbar(x, y, xerr=x_sd, yerr=y_sd, color="#000000", elinewidth=1.4, capsize=2.5)
    axes.set_xlim(left, right)


def correlations(rows: Sequence[tuple[str, dict[str, Correlation | None]]]) -> Figure:
    """Spearman's rho of each metric with its interval: one colour for each way of grouping the runs."""
    kinds = list(rows[0][1])
    colours = ("#000000", "#332288", "#CC6677", "#44AA99", "#999933")
    markers = ("o", "s", "D", "^", "v")
    step = 0.7 / max(len(kinds) - 1, 1)
    with mpl.rc_context(_LOOK):
        canvas = Canvas(figsize=(8.5, 0.62 * len(rows) + 1.5))
        axes = canvas.subplots()
        for number, kind in enumerate(kinds):
            known = [(i, found[kind]) for i, (_, found) in enumerate(rows)]
            look: dict[str, Any] = {"color": colours[number % 5], "marker": markers[number % 5], "linestyle": "none"}
            for i, each in known:
                if each is None:
                    continue
                low, high = (each.rho, each.rho) if each.low is None or each.high is None else (each.low, each.high)
                # A percentile interval may leave its estimate out; a bar of negative length is not drawn.
                reach = [[max(each.rho - low, 0)], [max(high - each.rho, 0)]]
                axes.errorbar(each.rho, i + number * step - 0.35, xerr=reach, markersize=5.5, elinewidth=1.1, **look)
            axes.plot([], [], label=kind, markersize=5.5, **look)
        axes.axvline(0, color="#555555", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [label for label, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-1.05, 1.05)
        axes.set_xticks(np.linspace(-1, 1, 9))
        axes.set_xlabel("Spearman's rho with F1; positive: works as meant")
        canvas.legend(loc="outside lower center", ncols=2)
        caption = (
            "Rank correlation of each label-free metric with F1, with 95 % bootstrap intervals where the groups are "
            "enough to give one."
        )
        return _rendered(canvas, "spearman", caption)


def _has_values(grid: Grid, method: str, responses: Sequence[Readable], share: float | None = None) -> bool:
    cells = [cell for cell in grid.cells if cell.method == method and share in (None, cell.proportion)]
    return any(grid.values(cell, response) for cell in cells for response in responses)


def _method_legend(canvas: Canvas, methods: Sequence[str], *, lines: bool, encoders: Sequence[str] = ()) -> None:
    handles = []
    for method in methods:
        look = style(method)
        dashes: LineStyle = look.dashes if lines else "none"
        handles.append(
            Line2D([], [], color=look.colour, marker=look.marker, linestyle=dashes, markersize=6, label=look.label)
        )
    if not lines and len(encoders) > 1:
        handles += [_handle("o", "#555555", encoder_label(each), hollow=i > 0) for i, each in enumerate(encoders)]
    canvas.legend(handles=handles, loc="outside right upper")


def _handle(marker: str, colour: str, label: str, *, hollow: bool) -> Line2D:
    face = "white" if hollow else colour
    return Line2D([], [], color=colour, marker=marker, linestyle="none", markerfacecolor=face, label=label)


def _broken(label: str) -> str:
    """A long label on several lines; numbers keep to what they belong to."""
    return textwrap.fill(label.replace("threshold 0", "threshold\u00a00").replace(" %", "\u00a0%"), LINE)


def _rendered(canvas: Canvas, name: str, caption: str) -> Figure:
    svg, png = io.BytesIO(), io.BytesIO()
    # Laid out once for both.
    canvas.draw_without_rendering()
    canvas.set_layout_engine("none")
    # No date, no versions: what is drawn decides the bytes.
    canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    canvas.savefig(png, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return Figure(name=name, caption=caption, svg=svg.getvalue(), png=png.getvalue())
