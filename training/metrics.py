"""Metrics of a binary score, with bootstrap intervals.

Shapes: N frames, G groups (inspections), K summed counts, R bootstrap replicates.

Labels are 1 (defect) and 0 (normal); a verdict is defect where score >= threshold. A ratio with nothing in
its denominator counts as 0, as in Sewer-ML's official metric. Frames of one pipe resemble each other, so
intervals come from resampling inspections, not frames, wherever inspection ids are known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.errors import DataError
from training.data.classes import CIW, CLASS_CODES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_Weighted = Callable[[Floats], Floats]

INTERVAL_PERCENT = (2.5, 97.5)
# Memory of the bootstrap: about this many float64 values at a time (64 MB).
CHUNK_VALUES = 8_000_000

_CIW = np.array([CIW[code] for code in CLASS_CODES], dtype=np.float64)
# Columns of the count table: true positives, false positives, false negatives, true negatives, ...
_TP, _FP, _FN, _TN = range(4)
# ... then for each class the frames that show it, and those of them judged defect.
_SHOWN = slice(4, 4 + len(CLASS_CODES))
_FOUND = slice(4 + len(CLASS_CODES), 4 + 2 * len(CLASS_CODES))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A metric's value with its 95 % interval."""

    value: float
    low: float
    high: float


def f_beta(precision: Floats | float, recall: Floats | float, beta: float) -> Floats:
    """(1 + beta^2) P R / (beta^2 P + R), elementwise; 0 where both are 0."""
    weight = beta * beta
    return ratio_or_zero((1 + weight) * np.multiply(precision, recall), weight * np.asarray(precision) + recall)


def auroc(labels: NDArray[np.integer], scores: NDArray[np.floating]) -> float:
    """Area under the ROC curve; ties count half.

    Raises:
        DataError: one of the classes is missing.
    """
    _need_both_classes(labels)
    return float(_ranked(labels, scores).auroc(np.ones((1, len(labels))))[0])


def average_precision(labels: NDArray[np.integer], scores: NDArray[np.floating]) -> float:
    """Sum over distinct scores of (recall step) x precision, the step-wise area scikit-learn also reports.

    Raises:
        DataError: one of the classes is missing.
    """
    _need_both_classes(labels)
    return float(_ranked(labels, scores).average_precision(np.ones((1, len(labels))))[0])


def f2_ciw_binary(labels: NDArray[np.integer], verdicts: NDArray[np.bool_], classes: NDArray[np.integer]) -> float:
    """CIW-weighted F2 of a binary verdict: a variant of our own, not Sewer-ML's official F2-CIW.

    The official metric needs one verdict per class. Here the recall of class c is the share of the frames
    showing c that are judged defect, the precision is the binary verdict's for every class, and F2_c is
    averaged with the class importance weights over the classes that occur in the data.

    Args:
        labels: [N], 1 or 0.
        verdicts: bool [N], judged defect.
        classes: [N, 17], 1 where the frame shows the class.
    """
    counts = _frame_counts(labels, verdicts, classes).sum(0, keepdims=True)
    return float(_f2_ciw_binary(counts, counts[0, _SHOWN] > 0)[0])


def threshold_metrics(
    labels: NDArray[np.integer],
    scores: NDArray[np.floating],
    *,
    threshold: float,
    classes: NDArray[np.integer] | None = None,
) -> dict[str, float]:
    """Metrics of the verdicts at `threshold`.

    precision, recall, specificity, f1, f2, f1_normal and, where any frame's classes are known, f2_ciw_binary.
    """
    counts = _frame_counts(labels, scores >= threshold, classes).sum(0, keepdims=True)
    occurring = counts[0, _SHOWN] > 0
    return {name: float(value[0]) for name, value in _from_counts(counts, occurring).items()}


def evaluate(
    labels: NDArray[np.integer],
    scores: NDArray[np.floating],
    *,
    thresholds: Mapping[str, float],
    rng: np.random.Generator,
    classes: NDArray[np.integer] | None = None,
    inspections: NDArray[np.integer] | None = None,
    replicates: int = 1000,
) -> dict[str, Estimate]:
    """Every metric with its 95 % percentile-bootstrap interval.

    Args:
        labels: [N], 1 or 0.
        scores: [N], any scale that `thresholds` share.
        thresholds: name -> threshold; their metrics are called `f1@name` and so on.
        rng: draws the replicates.
        classes: [N, 17], or None where they are unknown.
        inspections: [N] ids; negative ids and None make a frame its own group.
        replicates: R.

    Raises:
        DataError: one of the classes is missing, so AUROC is undefined.
    """
    _need_both_classes(labels)
    scores = np.asarray(scores, dtype=np.float64)
    groups = group_ids(inspections, len(labels))
    draws = draw_groups(int(groups.max()) + 1, replicates, rng)
    ranked = _ranked(labels, scores)
    everything = np.ones((1, len(labels)))
    found = {
        "auroc": (ranked.auroc(everything), _over_replicates(ranked.auroc, draws, groups)),
        "average_precision": (
            ranked.average_precision(everything),
            _over_replicates(ranked.average_precision, draws, groups),
        ),
    }
    for name, threshold in thresholds.items():
        counts = _frame_counts(labels, scores >= threshold, classes)
        occurring = counts[:, _SHOWN].sum(0) > 0
        by_group = np.zeros((draws.shape[1], counts.shape[1]))
        np.add.at(by_group, groups, counts)
        values = _from_counts(counts.sum(0, keepdims=True), occurring)
        spread = _from_counts(draws @ by_group, occurring)
        found |= {f"{metric}@{name}": (values[metric], spread[metric]) for metric in values}
    return {name: percentile_interval(float(value[0]), spread) for name, (value, spread) in found.items()}


def group_ids(inspections: NDArray[np.integer] | None, n: int) -> Ints:
    """Dense group numbers int64 [N] from inspection ids; a frame without one is a group."""
    if inspections is None:
        return np.arange(n, dtype=np.int64)
    ids = np.asarray(inspections, dtype=np.int64).copy()
    unknown = ids < 0
    ids[unknown] = ids.max(initial=-1) + 1 + np.arange(int(unknown.sum()))
    return np.unique(ids, return_inverse=True)[1].astype(np.int64)


def draw_groups(groups: int, replicates: int, rng: np.random.Generator) -> Floats:
    """How often each replicate drew each group: float64 [R, G]."""
    drawn = rng.integers(0, groups, size=(replicates, groups))
    flat = drawn + groups * np.arange(replicates)[:, None]
    return np.bincount(flat.ravel(), minlength=replicates * groups).reshape(replicates, groups).astype(np.float64)


def auroc_replicates(
    labels: NDArray[np.integer], scores: NDArray[np.floating], *, draws: Floats, groups: Ints
) -> Floats:
    """AUROC of each replicate, float64 [R]; NaN where it drew one class only.

    Args:
        labels, scores: [N].
        draws: [R, G], of `draw_groups`; two scores measured on the same draws can be compared replicate by replicate.
        groups: [N], of `group_ids`.
    """
    return _over_replicates(_ranked(labels, scores).auroc, draws, groups)


def percentile_interval(value: float, spread: Floats) -> Estimate:
    """A value with the 95 % percentile interval of its replicates [R]; undefined ones are NaN."""
    # A replicate of few inspections can lack a class, where AUROC is undefined: it is left out.
    known = spread[~np.isnan(spread)]
    low, high = np.percentile(known, INTERVAL_PERCENT) if len(known) else (np.nan, np.nan)
    return Estimate(value=value, low=float(low), high=float(high))


def ratio_or_zero(numerator: Floats, denominator: Floats) -> Floats:
    """numerator / denominator, elementwise and broadcast; 0 where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    ratio = np.zeros(numerator.shape, dtype=np.float64)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def _need_both_classes(labels: NDArray[np.integer]) -> None:
    defects = int(np.count_nonzero(labels == 1))
    normals = int(np.count_nonzero(labels == 0))
    if defects + normals != len(labels):
        raise DataError("metrics take labels 1 (defect) and 0 (normal) only; leave unlabelled frames out")
    if not defects or not normals:
        raise DataError(f"the data hold {defects} defect and {normals} normal frames; measuring needs some of both")


@dataclass(frozen=True, kw_only=True)
class _Ranked:
    """Frames by falling score. `ends` are the last places of each run of equal scores."""

    order: Ints
    positive: Floats
    ends: Ints

    def _cumulative(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weights [R, N] -> weighted defects and normals at or above each distinct score, each [R, T]."""
        ranked = weights[:, self.order]
        defects = np.cumsum(ranked * self.positive, axis=1)[:, self.ends]
        everything = np.cumsum(ranked, axis=1)[:, self.ends]
        return defects, everything - defects

    def auroc(self, weights: Floats) -> Floats:
        """[R, N] -> [R]; NaN for a replicate that drew one class only."""
        defects, normals = self._cumulative(weights)
        steps = np.diff(normals, axis=1, prepend=0.0)
        # Trapezoids between distinct scores: this is where ties count half.
        before = np.concatenate([np.zeros((len(defects), 1)), defects[:, :-1]], axis=1)
        area = (steps * (defects + before) / 2).sum(1)
        return _nan_where_undefined(area, defects[:, -1] * normals[:, -1])

    def average_precision(self, weights: Floats) -> Floats:
        """[R, N] -> [R]; NaN for a replicate without defects."""
        defects, normals = self._cumulative(weights)
        steps = np.diff(defects, axis=1, prepend=0.0)
        area = (steps * ratio_or_zero(defects, defects + normals)).sum(1)
        return _nan_where_undefined(area, defects[:, -1])


def _nan_where_undefined(numerator: Floats, denominator: Floats) -> Floats:
    ratio = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def _ranked(labels: NDArray[np.integer], scores: NDArray[np.floating]) -> _Ranked:
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    ordered = scores[order]
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    return _Ranked(order=order, positive=(labels[order] == 1).astype(np.float64), ends=ends)


def _over_replicates(metric: _Weighted, draws: Floats, groups: Ints) -> Floats:
    rows = max(1, CHUNK_VALUES // len(groups))
    chunks = [metric(draws[i : i + rows][:, groups]) for i in range(0, len(draws), rows)]
    return np.concatenate(chunks)


def _frame_counts(
    labels: NDArray[np.integer], verdicts: NDArray[np.bool_], classes: NDArray[np.integer] | None
) -> Floats:
    """What each frame adds to the count table: float64 [N, K]."""
    counts = np.zeros((len(labels), _FOUND.stop))
    defect = labels == 1
    counts[:, _TP] = defect & verdicts
    counts[:, _FP] = ~defect & verdicts
    counts[:, _FN] = defect & ~verdicts
    counts[:, _TN] = ~defect & ~verdicts
    if classes is not None:
        shown = (classes > 0) & defect[:, None]
        counts[:, _SHOWN] = shown
        counts[:, _FOUND] = shown & verdicts[:, None]
    return counts


def _from_counts(counts: Floats, occurring: NDArray[np.bool_]) -> dict[str, Floats]:
    """Metrics [R] from count tables [R, K]; `occurring` bool [17] are the classes that the data hold."""
    tp, fp, fn, tn = (counts[:, column] for column in (_TP, _FP, _FN, _TN))
    precision, recall = ratio_or_zero(tp, tp + fp), ratio_or_zero(tp, tp + fn)
    specificity, negative_precision = ratio_or_zero(tn, tn + fp), ratio_or_zero(tn, tn + fn)
    metrics = {
        "precision": precision,
        "recall": recall,
        "specificity": specificity,
        "f1": f_beta(precision, recall, 1),
        "f2": f_beta(precision, recall, 2),
        "f1_normal": f_beta(negative_precision, specificity, 1),
    }
    if occurring.any():
        metrics["f2_ciw_binary"] = _f2_ciw_binary(counts, occurring)
    return metrics


def _f2_ciw_binary(counts: Floats, occurring: NDArray[np.bool_]) -> Floats:
    if not occurring.any():
        return np.zeros(len(counts))
    precision = ratio_or_zero(counts[:, _TP], counts[:, _TP] + counts[:, _FP])
    recall = ratio_or_zero(counts[:, _FOUND], counts[:, _SHOWN])
    weights = np.where(occurring, _CIW, 0.0)
    mean: Floats = f_beta(precision[:, None], recall, 2) @ weights / weights.sum()
    return mean
