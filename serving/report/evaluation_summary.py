"""What an evaluation says: the chosen operating point, further ones, and what it takes to catch nearly all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from serving.inspections.evaluation import Scored
from serving.inspections.review_curve import Allowances, Curve, Estimate, Resamples, Watching

RECALLS = (0.95, 0.99)
SCHEMA = "pipeprobe-evaluation/1"
# Drawn alike every time, so that the same inspections make the same files.
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Mark:
    """An operating point on the curve; counts are over all inspections, shares of the filmed pipe."""

    name: str
    threshold: float
    found: int
    false_findings: int
    recall: Estimate
    false_per_100m: Estimate
    flagged_share: float
    watched_share: Estimate


@dataclass(frozen=True, kw_only=True)
class Catching(Watching):
    """What it takes to catch a share of the events; `label` says how many that is."""

    label: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """An evaluation in numbers; see `serving.inspections.review_curve`."""

    inspections: int
    metres: float
    events: int
    tolerance: float
    axis: str
    margin_m: float
    chosen: Mark
    marks: tuple[Mark, ...]
    to_catch: tuple[Catching, ...]


def summarise(scored: Scored, curve: Curve, allowances: Allowances, marked: Mapping[str, float]) -> Summary:
    """Sum a curve up; `marked` are further thresholds of it by name."""
    resamples = Resamples(curve, np.random.default_rng(_SEED))
    n_events = int(curve.events.sum())
    return Summary(
        inspections=len(scored.inspections),
        metres=round(float(curve.length_m.sum()), 3),
        events=n_events,
        tolerance=allowances.tolerance,
        axis=scored.axis,
        margin_m=allowances.margin_m,
        chosen=_mark(scored.scoring["operating_point"], scored.rules.enter, curve, resamples),
        marks=tuple(_mark(name, threshold, curve, resamples) for name, threshold in marked.items()),
        to_catch=tuple(_catching(resamples.to_catch(recall), n_events) for recall in RECALLS),
    )


def as_document(summary: Summary, scored: Scored, about: Mapping[str, Any]) -> dict[str, Any]:
    """`evaluation.json`."""
    return {
        "schema": SCHEMA,
        **asdict(summary),
        "distances_from": scored.distances,
        "scoring": scored.scoring,
        "videos": [each.name for each in scored.inspections],
        "left_out": {"not_known": scored.unknown, "not_scored": scored.unscored},
        **about,
    }


def curve_rows(curve: Curve) -> tuple[Sequence[str], list[dict[str, float]]]:
    """Columns and rows of `curve.csv`: a threshold each."""
    columns: dict[str, Any] = {
        "threshold": curve.thresholds,
        "found": curve.found.sum(0).astype(int),
        "recall": curve.recall,
        "findings": curve.findings.sum(0).astype(int),
        "false_findings": curve.false.sum(0).astype(int),
        "false_per_100m": curve.false_per_100m,
        "flagged_m": curve.flagged_m.sum(0),
        "watched_m": curve.watched_m.sum(0),
        "watched_share": curve.watched_share,
    }
    rows = zip(*([round(value, 6) for value in column.tolist()] for column in columns.values()), strict=True)
    return tuple(columns), [dict(zip(columns, row, strict=True)) for row in rows]


def percent(of: Estimate) -> str:
    """A share and its interval for people."""
    return f"{100 * of.value:.0f} % ({100 * of.low:.0f} to {100 * of.high:.0f})"


def _mark(name: str, threshold: float, curve: Curve, resamples: Resamples) -> Mark:
    index = curve.at(threshold)
    return Mark(
        name=name,
        threshold=threshold,
        found=int(curve.found[:, index].sum()),
        false_findings=int(curve.false[:, index].sum()),
        recall=resamples.recall(index),
        false_per_100m=resamples.false_per_100m(index),
        flagged_share=float(curve.flagged_share[index]),
        watched_share=resamples.watched_share(index),
    )


def _catching(watching: Watching, n_events: int) -> Catching:
    count = f"all {n_events}" if watching.needed == n_events else f"{watching.needed} of {n_events}"
    return Catching(label=f"{100 * watching.recall:g} % ({count})", **vars(watching))
