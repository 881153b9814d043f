"""The review curve as a picture: SVG that any browser, and most word processors, can show.

Two panels share the events caught, upwards: to the right are the false findings per 100 m, and the metres to watch of
every 100 m. Colours tell nothing that words do not.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from serving.inspections.review_curve import Curve, Estimate
from serving.report.evaluation_summary import Catching, Summary, percent

_WIDTH, _HEIGHT = 1000, 486
_TOP, _BOTTOM = 70, 400
_LEFT_PANEL, _RIGHT_PANEL = (70, 485), (565, 980)
_INK, _SOFT, _LINE, _CURVE, _CHOSEN, _WATCH = "#1d2430", "#5b6675", "#e3e7ec", "#14569c", "#b3261e", "#9a5b00"
_NAME_WIDE, _NAME_HIGH = 100, 15
_FONT = "system-ui, 'Segoe UI', 'Liberation Sans', Arial, sans-serif"


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """A plot from 0 to `most` along, 0 to 1 up."""

    left: int
    right: int
    most: float

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * min(value, self.most) / self.most

    def at(self, along: float, up: float) -> str:
        return f"{self.x(along):.1f},{_y(up):.1f}"


def draw_curve(curve: Curve, summary: Summary) -> str:
    """The picture as SVG; equal input makes equal bytes."""
    marks = (summary.chosen, *summary.marks)
    ends = [bound for mark in marks for bound in (mark.false_per_100m.high, mark.false_per_100m.value)]
    false = _Panel(left=_LEFT_PANEL[0], right=_LEFT_PANEL[1], most=_nice(max([*ends, *curve.false_per_100m, 1.0])))
    watch = _Panel(left=_RIGHT_PANEL[0], right=_RIGHT_PANEL[1], most=100.0)
    parts = [
        *_frame(false, "Findings that show nothing", "false findings per 100 m of pipe"),
        *_frame(watch, "Pipe that is still watched", "metres to watch of every 100 m"),
        _text(18, (_TOP + _BOTTOM) / 2, "events found", fill=_SOFT, anchor="middle", turned=True),
        *_false_panel(false, curve, summary),
        *_watch_panel(watch, curve, summary),
        _text(_LEFT_PANEL[0], _HEIGHT - 14, _caption(summary), fill=_SOFT, size=12),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'font-family="{_FONT}" role="img" aria-label="{html.escape(_caption(summary))}">\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _false_panel(panel: _Panel, curve: Curve, summary: Summary) -> Iterable[str]:
    """The curve solid down to the threshold that makes most findings; below it findings only grow together."""
    turn = int(np.flatnonzero(curve.findings.sum(0) == curve.findings.sum(0).max())[-1])
    points = list(zip(curve.false_per_100m.tolist(), curve.recall.tolist(), strict=True))
    yield _path(panel, points[: turn + 1], _CURVE, "stroke-dasharray='2 4' stroke-opacity='0.55'")
    yield _path(panel, points[turn:], _CURVE)
    for mark in summary.marks:
        yield _dot(panel, mark.false_per_100m.value, mark.recall.value, _CURVE)
    yield from _names(panel, summary)
    chosen = summary.chosen
    yield from _cross(panel, chosen.false_per_100m, chosen.recall)
    yield _dot(panel, chosen.false_per_100m.value, chosen.recall.value, _CHOSEN, is_large=True)
    lines = [
        (_CHOSEN, f"{chosen.name}, opens at {chosen.threshold:.3f}"),
        (_INK, f"finds {percent(chosen.recall)} of {summary.events} events"),
        (_INK, f"{_numbers(chosen.false_per_100m)} false findings per 100 m"),
    ]
    if turn > 0:
        lines.append((_SOFT, "dotted: low thresholds, where findings grow together"))
    yield from _notes(panel, lines)


def _watch_panel(panel: _Panel, curve: Curve, summary: Summary) -> Iterable[str]:
    points = list(zip((100 * curve.watched_share).tolist(), curve.recall.tolist(), strict=True))
    yield _path(panel, points, _CURVE)
    for caught in summary.to_catch:
        if caught.share is not None:
            up = _y(caught.recall)
            low, high = panel.x(100 * caught.share.low), panel.x(100 * caught.share.high)
            yield f'<path d="M{panel.left} {up:.1f}H{panel.right}" stroke="{_WATCH}" stroke-dasharray="2 4"/>'
            yield f'<path d="M{low:.1f} {up:.1f}H{high:.1f}" stroke="{_WATCH}" stroke-width="6" stroke-opacity="0.35"/>'
            yield f'<circle cx="{panel.x(100 * caught.share.value):.1f}" cy="{up:.1f}" r="4.5" fill="{_WATCH}"/>'
    for mark in summary.marks:
        yield _dot(panel, 100 * mark.watched_share.value, mark.recall.value, _CURVE)
    chosen = summary.chosen
    yield _dot(panel, 100 * chosen.watched_share.value, chosen.recall.value, _CHOSEN, is_large=True)
    lines = [(_CHOSEN, f"{chosen.name}: watch {_metres(chosen.watched_share)} of 100 m")]
    lines += [(_WATCH, catching_words(caught)) for caught in summary.to_catch]
    yield from _notes(panel, lines)


def catching_words(caught: Catching) -> str:
    """What it takes, in a line."""
    if caught.share is None:
        return f"{caught.label}: no threshold catches so many"
    return f"to catch {caught.label}: watch {_metres(caught.share)} of 100 m"


def _frame(panel: _Panel, title: str, along: str) -> Iterable[str]:
    yield _text(panel.left, _TOP - 26, title, size=16, weight=600)
    for step in range(6):
        up, share = _y(step / 5), panel.most * step / 5
        yield f'<path d="M{panel.left} {up:.1f}H{panel.right}" stroke="{_LINE}"/>'
        yield _text(panel.left - 8, up + 4, f"{20 * step} %", fill=_SOFT, size=12, anchor="end")
        yield _text(panel.x(share), _BOTTOM + 18, f"{share:g}", fill=_SOFT, size=12, anchor="middle")
    yield f'<path d="M{panel.left} {_BOTTOM}H{panel.right}" stroke="{_SOFT}"/>'
    yield _text((panel.left + panel.right) / 2, _BOTTOM + 38, along, fill=_SOFT, anchor="middle")


def _path(panel: _Panel, points: Sequence[tuple[float, float]], colour: str, more: str = "") -> str:
    drawn = " ".join(panel.at(*point) for point in points)
    return f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2.5" {more}/>'.replace("'", '"')


def _cross(panel: _Panel, along: Estimate, up: Estimate) -> Iterable[str]:
    """The intervals of a point."""
    x, y = panel.x(along.value), _y(up.value)
    style = f'stroke="{_CHOSEN}" stroke-width="2" stroke-opacity="0.5"'
    yield f'<path d="M{panel.x(along.low):.1f} {y:.1f}H{panel.x(along.high):.1f}" {style}/>'
    yield f'<path d="M{x:.1f} {_y(up.low):.1f}V{_y(up.high):.1f}" {style}/>'


def _dot(panel: _Panel, along: float, up: float, colour: str, *, is_large: bool = False) -> str:
    style = f'r="7" fill="{colour}" stroke="#fff"' if is_large else f'r="4.5" fill="#fff" stroke="{colour}"'
    return f'<circle cx="{panel.x(along):.1f}" cy="{_y(up):.1f}" {style} stroke-width="2"/>'


def _names(panel: _Panel, summary: Summary) -> Iterable[str]:
    """The names of all marks, to the lower right of each and below each other where they would meet."""
    taken: list[tuple[float, float]] = []
    for mark in sorted((summary.chosen, *summary.marks), key=lambda each: -each.recall.value):
        x, y = panel.x(mark.false_per_100m.value) + 11, _y(mark.recall.value) + 16
        while any(abs(x - other_x) < _NAME_WIDE and abs(y - other_y) < _NAME_HIGH for other_x, other_y in taken):
            y += 4
        taken.append((x, y))
        is_chosen = mark is summary.chosen
        yield _text(x, y, mark.name, fill=_CHOSEN if is_chosen else _CURVE, size=12, weight=600 if is_chosen else 400)


def _notes(panel: _Panel, lines: Sequence[tuple[str, str]]) -> Iterable[str]:
    """Lines in the corner that curves leave free, low on the right, on a ground of their own."""
    top = _BOTTOM - 14 - 19 * (len(lines) - 1)
    width, height = max(len(line) for _, line in lines) * 6.6, 19 * len(lines) + 6
    yield (
        f'<rect x="{panel.right - 12 - width:.1f}" y="{top - 17}" width="{width + 8:.1f}" height="{height}" '
        'fill="#fff" fill-opacity="0.85"/>'
    )
    for i, (colour, line) in enumerate(lines):
        yield _text(panel.right - 8, top + 19 * i, line, fill=colour, size=13, anchor="end")


def _caption(summary: Summary) -> str:
    return (
        f"{summary.inspections} inspections, {summary.metres:.0f} m of pipe, {summary.events} events; in brackets 95 % "
        "intervals, by resampling inspections; metres with "
        f"{summary.margin_m:g} m before and behind each finding"
    )


def _numbers(of: Estimate) -> str:
    return f"{of.value:.1f} ({of.low:.1f} to {of.high:.1f})"


def _metres(share: Estimate) -> str:
    return f"{100 * share.value:.0f} m ({100 * share.low:.0f} to {100 * share.high:.0f})"


def _text(
    x: float,
    y: float,
    text: str,
    *,
    fill: str = _INK,
    size: int = 13,
    anchor: str = "start",
    weight: int = 400,
    turned: bool = False,
) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" font-size="{size}" text-anchor="{anchor}" '
        f'font-weight="{weight}"{turn}>{html.escape(text)}</text>'
    )


def _y(up: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * up


def _nice(most: float) -> float:
    """The least of 1, 2, 3, 4, 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 2, 3, 4, 5, 10) if step * power >= most - 1e-9)
