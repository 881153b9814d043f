"""Which label-free metric ranks runs as the probe's F1 does: pooled, within a backbone, within method and backbone.

Values are turned so that higher is what the metric's authors expect to be better (`training.label_free.as_quality`:
negated where lower is, -|alpha - 1| for alpha-ReQ), so a positive rho always means that the metric works as meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from training.label_free import EXPECTED_SIGN, as_quality
from training.report.cells import Readable, cell_of
from training.report.results import Result
from training.report.statistics import Correlation, mean_spearman, seed_deviation, spearman

Floats = NDArray[np.float64]
Pair = tuple[str, str]


def measured_metrics(results: Iterable[Result]) -> list[str]:
    """The metrics of `training.label_free` that some run has, in their order."""
    found = {name for result in results for name, value in result.label_free.items() if value is not None}
    return [name for name in EXPECTED_SIGN if name in found]


def with_both(results: Iterable[Result], metric: str, response: Readable) -> list[Result]:
    """The runs that have the metric and the response."""
    return [r for r in results if r.label_free.get(metric) is not None and response.of(r) is not None]


def values_of(results: Sequence[Result], metric: str, response: Readable) -> tuple[Floats, Floats]:
    """The metric as it is and the response, float64 [N] each, of runs that have both."""
    x = [result.label_free[metric] for result in results]
    y = [response.of(result) for result in results]
    return np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)


def rank_correlation(results: Iterable[Result], metric: str, response: Readable) -> Correlation | None:
    """Spearman over all of `results`; its interval resamples method x backbone pairs whole."""
    known = with_both(results, metric, response)
    groups = np.unique([f"{result.method} {result.identity.encoder}" for result in known], return_inverse=True)[1]
    return spearman(*_qualities(known, metric, response), groups=groups)


def within_correlation(results: Iterable[Result], metric: str, response: Readable) -> Correlation | None:
    """Mean of Spearman within each method x backbone pair, over proportions and seeds."""
    parts = pairs_of(with_both(results, metric, response))
    return mean_spearman([_qualities(part, metric, response) for part in parts.values()])


def pair_correlation(results: Iterable[Result], metric: str, response: Readable) -> Correlation | None:
    """Spearman over the runs of one method x backbone pair; its interval resamples runs."""
    return spearman(*_qualities(with_both(results, metric, response), metric, response))


def pairs_of(results: Iterable[Result]) -> dict[Pair, list[Result]]:
    """Runs by method and encoder."""
    found: dict[Pair, list[Result]] = {}
    for result in results:
        found.setdefault((result.method, result.identity.encoder), []).append(result)
    return found


def seed_deviations(results: Iterable[Result], metric: str, response: Readable) -> tuple[float | None, float | None]:
    """Standard deviation over seeds, pooled over cells, of the metric and of the response: the floor of both."""
    known = with_both(results, metric, response)
    cells = _cell_numbers(known)
    x, y = values_of(known, metric, response)
    return seed_deviation(x, cells), seed_deviation(y, cells)


def _cell_numbers(results: Sequence[Result]) -> NDArray[np.int64]:
    cells = {cell: number for number, cell in enumerate(dict.fromkeys(cell_of(result) for result in results))}
    return np.array([cells[cell_of(result)] for result in results], dtype=np.int64)


def _qualities(results: Sequence[Result], metric: str, response: Readable) -> tuple[Floats, Floats]:
    x, y = values_of(results, metric, response)
    return np.array([as_quality(metric, float(value)) for value in x]), y
