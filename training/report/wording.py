"""Figures as a reader sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from training.report.cells import Cell, Grid, Readable
from training.report.statistics import Correlation, Interval, Spread, spread

NOTHING = "-"
UNKNOWN = "?"
SPREAD_NOTE = (
    "Mean ± standard deviation over seeds, and in brackets how many runs that is; `2/3`: of three planned ones two "
    "have figures. `± ?`: one run, so the spread is unknown. `-`: not in the plan, or not measured."
)


def figure(value: float | None, digits: int = 3) -> str:
    """A number with fixed digits."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def spread_text(found: Spread | None, digits: int = 3) -> str:
    """`0.812 ± 0.013`; one seed's spread is unknown, never 0."""
    if found is None:
        return NOTHING
    return f"{found.mean:.{digits}f} ± {UNKNOWN if found.sd is None else f'{found.sd:.{digits}f}'}"


def interval_text(found: Interval, digits: int = 3) -> str:
    """`+0.034 (+0.010 to +0.058)`: of a difference."""
    return f"{found.value:+.{digits}f} ({found.low:+.{digits}f} to {found.high:+.{digits}f})"


def correlation_text(found: Correlation | None) -> str:
    """`+0.41 (+0.10 to +0.63)`, without an interval where there is none."""
    if found is None:
        return NOTHING
    return f"{found.rho:+.2f}" if found.low is None else f"{found.rho:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def p_text(p: float) -> str:
    """A p value; small ones as a bound."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration_text(seconds: float) -> str:
    """Wall time in the unit that fits."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def cell_text(grid: Grid, cell: Cell, response: Readable) -> str:
    """A cell of a table: `0.812 ± 0.013 (2/3; 1 diverged)`, or why there is nothing."""
    planned, values = grid.planned(cell), grid.values(cell, response)
    if not planned:
        return NOTHING
    statuses = [result.status for result in grid.runs(cell)]
    broken = [f"{statuses.count(status)} {status}" for status in ("collapsed", "diverged") if status in statuses]
    if not values:
        return "; ".join(broken) or (NOTHING if statuses else "missing")
    count = str(len(values)) if len(values) == planned else f"{len(values)}/{planned}"
    return f"{spread_text(spread(values))} ({'; '.join([count, *broken])})"


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names with commas; beyond `most`, how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counts_text(values: Iterable[int | None]) -> str:
    """A count that varies as a range: `4,242 to 4,830`."""
    known = sorted({value for value in values if value is not None})
    if not known:
        return NOTHING
    return f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"
