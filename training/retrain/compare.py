"""The new pair against the default one on the same held-out frames: differences with paired intervals.

Both are measured on the same bootstrap replicates of the inspections, and the interval is that of the difference in
each replicate. What is hard in an inspection is hard for both, and cancels; two separate intervals would hide that.

Shapes: N frames, G inspections, R replicates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from training.metrics import (
    Estimate,
    auroc,
    auroc_replicates,
    draw_groups,
    f_beta,
    group_ids,
    percentile_interval,
    ratio_or_zero,
)

Floats = NDArray[np.float64]

REPLICATES = 2000
# A new pair may rank held-out frames this much worse, in AUROC, and still count as not worse.
MARGIN = 0.02
# Below this many held-out inspections, an interval from resampling them is a rough guess.
FEW_INSPECTIONS = 10

Verdict = Literal["better", "not worse", "unclear", "worse", "knows nothing"]
EXPORTED: tuple[Verdict, ...] = ("better", "not worse")
RULE = (
    "a new version is exported if its AUROC on the held-out inspections is better than the default pair's (95 % "
    f"interval of the difference above 0) or not worse (interval above -{MARGIN}), and above 0.5"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One pair's answers to the frames: `logits` [N], any scale that ranks, and `verdicts` bool [N], judged defect."""

    logits: NDArray[np.floating]
    verdicts: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One metric of the default pair and of the new one, and new minus default."""

    default: Estimate
    new: Estimate
    difference: Estimate

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, float]]) -> Measured:
        return cls(**{key: Estimate(**value) for key, value in data.items()})


def compare(
    labels: NDArray[np.integer],
    inspections: NDArray[np.integer],
    *,
    default: Side,
    new: Side,
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> dict[str, Measured]:
    """`auroc`, and `f1`, `precision`, `recall`, `false_alarms` of the verdicts.

    `false_alarms` is the share of normal frames judged defect. Replicates that draw one class only are left out.

    Args:
        labels: [N], 1 or 0; both must occur.
        inspections: [N] ids; a negative one makes a frame its own inspection.
        default, new: what the two pairs say.
        rng: draws the replicates.

    Raises:
        DataError: one of the classes is missing.
    """
    groups = group_ids(inspections, len(labels))
    draws = draw_groups(int(groups.max()) + 1, replicates, rng)
    values, spreads = [], []
    for side in (default, new):
        value = {"auroc": auroc(labels, side.logits)}
        spread = {"auroc": auroc_replicates(labels, side.logits, draws=draws, groups=groups)}
        counts = np.zeros((draws.shape[1], 4))
        np.add.at(counts, (groups, 2 * (labels == 1) + side.verdicts), 1)
        value |= {name: float(each[0]) for name, each in _from_counts(counts.sum(0, keepdims=True)).items()}
        values.append(value)
        spreads.append(spread | _from_counts(draws @ counts))
    return {
        name: Measured(
            default=percentile_interval(values[0][name], spreads[0][name]),
            new=percentile_interval(values[1][name], spreads[1][name]),
            difference=percentile_interval(values[1][name] - values[0][name], spreads[1][name] - spreads[0][name]),
        )
        for name in values[0]
    }


def _from_counts(counts: Floats) -> dict[str, Floats]:
    """Metrics [R] from counts [R, 4]: normals passed, normals flagged, defects passed, defects flagged."""
    passed, alarms, missed, found = counts.T
    precision, recall = ratio_or_zero(found, found + alarms), ratio_or_zero(found, found + missed)
    metrics = {
        "f1": f_beta(precision, recall, 1),
        "precision": precision,
        "recall": recall,
        "false_alarms": ratio_or_zero(alarms, alarms + passed),
    }
    undefined = (found + missed == 0) | (alarms + passed == 0)
    return {name: np.where(undefined, np.nan, value) for name, value in metrics.items()}


def judge(measured: Measured) -> Verdict:
    """What the AUROCs allow saying of the new pair; see `RULE`. Undefined intervals allow nothing."""
    if not measured.new.low > 0.5:
        return "knows nothing"
    if measured.difference.low > 0:
        return "better"
    if measured.difference.low >= -MARGIN:
        return "not worse"
    return "worse" if measured.difference.high < 0 else "unclear"
