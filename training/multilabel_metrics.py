"""Sewer-ML's official multi-label metric, with what else is worth knowing of each class, and intervals.

For each class c, with precision P and recall R of the verdicts score >= 0.5 (Haurum and Moeslund, CVPR 2021):

    F2_c = 5 P R / (4 P + R)        F2CIW = sum_c CIW_c F2_c / sum_c CIW_c

F1_Normal is the F1 of the verdict "no class", taken as one more class: the frame shows none, and no score reaches
0.5. A ratio with nothing in its denominator counts as 0, so a class that the data lack counts as F2_c = 0 and keeps
its weight; `f2_ciw_ceiling` says how much that leaves to be reached.

Shapes: N frames, 17 classes in the order of `CLASS_CODES`, G groups (inspections), R bootstrap replicates.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import DataError
from training.data.classes import CIW, CLASS_CODES
from training.metrics import (
    Estimate,
    Floats,
    average_precision,
    draw_groups,
    f_beta,
    group_ids,
    percentile_interval,
    ratio_or_zero,
)

THRESHOLD = 0.5

# The 17 classes and, last, the implicit class of the frames that show none of them.
_COLUMNS = len(CLASS_CODES) + 1
_CIW = np.array([*CIW.values(), 0.0])
_EQUAL = np.ones(_COLUMNS)


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class at threshold 0.5: `n` frames show it. Without any, `average_precision` is undefined: None."""

    n: int
    precision: float
    recall: float
    f1: float
    f2: float
    average_precision: float | None


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """The official scores of `n` frames, and each class by its code.

    Attributes:
        f2_ciw, f1_normal: the official metric.
        f2_ciw_ceiling: the share of all CIW held by classes that occur in the data: what perfect scores would get.
        macro_f1: mean F1 of the 17 classes and of "no class", as the official evaluation reports it.
        mean_average_precision: over the classes that occur; None where none does.
    """

    n: int
    f2_ciw: float
    f2_ciw_ceiling: float
    f1_normal: float
    macro_f1: float
    mean_average_precision: float | None
    per_class: dict[str, ClassScore]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ClassScores:
        """What `to_json` gave."""
        per_class = {code: ClassScore(**score) for code, score in value["per_class"].items()}
        return cls(**value | {"per_class": per_class})


def official_scores(classes: NDArray[np.integer], scores: NDArray[np.floating]) -> ClassScores:
    """Score multi-label predictions as Sewer-ML does.

    Args:
        classes: [N, 17], 1 where the frame shows the class, else 0.
        scores: [N, 17], in [0, 1].

    Raises:
        DataError: other shapes or values, or no frame.
    """
    shown, verdicts = _checked(classes, scores)
    counts = _frame_counts(shown, verdicts).sum(0)
    precision, recall = _precision_recall(counts)
    f1, f2 = f_beta(precision, recall, 1), f_beta(precision, recall, 2)
    occurring = counts[_SHOWN] > 0
    per_class = {
        code: ClassScore(
            n=int(counts[_SHOWN, i]),
            precision=float(precision[i]),
            recall=float(recall[i]),
            f1=float(f1[i]),
            f2=float(f2[i]),
            average_precision=_average_precision(shown[:, i], scores[:, i]),
        )
        for i, code in enumerate(CLASS_CODES)
    }
    known = [score.average_precision for score in per_class.values() if score.average_precision is not None]
    return ClassScores(
        n=len(scores),
        f2_ciw=float(f2 @ _CIW / _CIW.sum()),
        f2_ciw_ceiling=float(_CIW[occurring].sum() / _CIW.sum()),
        f1_normal=float(f1[-1]),
        macro_f1=float(f1.mean()),
        mean_average_precision=float(np.mean(known)) if known else None,
        per_class=per_class,
    )


def official_intervals(
    classes: NDArray[np.integer],
    scores: NDArray[np.floating],
    *,
    rng: np.random.Generator,
    inspections: NDArray[np.integer] | None = None,
    replicates: int = 1000,
) -> dict[str, Estimate]:
    """`f2_ciw`, `f1_normal` and `macro_f1` with 95 % percentile-bootstrap intervals.

    Inspections are resampled, not frames. A rare class is missing from many replicates; counting it as 0 there would
    push the interval below the value itself, so its weight goes to the classes that the replicate drew. Classes that
    the data lack count as 0 in all replicates, as they do in the value.

    Args:
        classes, scores: as `official_scores` takes them.
        rng: draws the replicates.
        inspections: [N] ids; negative ids and None make a frame its own group.
        replicates: R.

    Raises:
        DataError: as `official_scores`, or all frames show a class, or none does.
    """
    shown, verdicts = _checked(classes, scores)
    normal = int(np.count_nonzero(~shown.any(1)))
    if normal in (0, len(shown)):
        raise DataError(
            f"{normal} of {len(shown)} frames show no class; intervals need some frames that show one and some that "
            "do not"
        )
    counts = _frame_counts(shown, verdicts)
    groups = group_ids(inspections, len(counts))
    by_group = np.zeros((int(groups.max()) + 1, *counts.shape[1:]))
    np.add.at(by_group, groups, counts)
    draws = draw_groups(len(by_group), replicates, rng)
    drawn = (draws @ by_group.reshape(len(by_group), -1)).reshape(replicates, *counts.shape[1:])
    whole = counts.sum(0)
    occurring = whole[_SHOWN] > 0
    values, spread = (_summaries(table, occurring) for table in (whole[None], drawn))
    return {name: percentile_interval(float(values[name][0]), spread[name]) for name in values}


# Rows of the count table: frames that show the class and are judged to, that are judged to, and that show it.
_FOUND, _JUDGED, _SHOWN = range(3)


def _checked(classes: NDArray[np.integer], scores: NDArray[np.floating]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """What is shown and what is judged to be, bool [N, 17] each."""
    classes, scores = np.asarray(classes), np.asarray(scores)
    expected = (len(classes), len(CLASS_CODES))
    if not len(classes) or classes.shape != expected or scores.shape != expected:
        raise DataError(
            f"classes and scores must both be [N, {len(CLASS_CODES)}] with N > 0, "
            f"got {classes.shape} and {scores.shape}"
        )
    if not np.isin(classes, (0, 1)).all():
        raise DataError("classes must be 1 (shown) or 0; leave frames out whose classes are unknown")
    # Written so that NaN fails, too.
    if not ((scores >= 0) & (scores <= 1)).all():
        raise DataError("class scores must be in [0, 1]: the threshold of the official metric is 0.5")
    return classes == 1, scores >= THRESHOLD


def _frame_counts(shown: NDArray[np.bool_], verdicts: NDArray[np.bool_]) -> Floats:
    """What each frame adds to the count table: float64 [N, 3, 18]."""
    shown, judged = (np.column_stack([marked, ~marked.any(1)]) for marked in (shown, verdicts))
    return np.stack([shown & judged, judged, shown], axis=1).astype(np.float64)


def _precision_recall(counts: Floats) -> tuple[Floats, Floats]:
    """Of count tables [..., 3, 18], each [..., 18]."""
    found, judged, shown = (counts[..., row, :] for row in (_FOUND, _JUDGED, _SHOWN))
    return ratio_or_zero(found, judged), ratio_or_zero(found, shown)


def _summaries(counts: Floats, occurring: NDArray[np.bool_]) -> dict[str, Floats]:
    """Summary metrics [R] of count tables [R, 3, 18]; `occurring` bool [18] are the classes of the whole data."""
    precision, recall = _precision_recall(counts)
    f1, f2 = f_beta(precision, recall, 1), f_beta(precision, recall, 2)
    drawn = counts[:, _SHOWN] > 0
    return {
        "f2_ciw": _mean_of_drawn(f2, drawn, _CIW, occurring),
        "f1_normal": np.where(drawn[:, -1], f1[:, -1], np.nan),
        "macro_f1": _mean_of_drawn(f1, drawn, _EQUAL, occurring),
    }


def _mean_of_drawn(values: Floats, drawn: NDArray[np.bool_], weights: Floats, occurring: NDArray[np.bool_]) -> Floats:
    """Mean of [R, 18] over the classes that each replicate drew, NaN without any, scaled by the share that occurs."""
    held = drawn @ weights
    mean = np.full(len(values), np.nan)
    np.divide((values * drawn) @ weights, held, out=mean, where=held > 0)
    scaled: Floats = mean * (weights[occurring].sum() / weights.sum())
    return scaled


def _average_precision(shown: NDArray[np.bool_], scores: NDArray[np.floating]) -> float | None:
    if not shown.any():
        return None
    return 1.0 if shown.all() else average_precision(shown.astype(np.int64), scores)
