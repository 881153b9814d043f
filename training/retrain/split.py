"""Whole inspections to train, val and test, so that what is measured has not been seen.

Every part needs inspections of both kinds: train and val are divided again (for calibration, and for the gate of the
export), test gives intervals over inspections. Inspections without a label go to train. Frames of one inspection on
both sides would make a pair look better than it is; that is done only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError, DataError
from training.data.frame_table import DEFECT, NORMAL
from training.retrain.labels import LABELS

Bools = NDArray[np.bool_]

PARTS = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
# Train and val are divided once more into two parts with both kinds each, and one inspection has no interval.
MIN_INSPECTIONS = 2
NEEDED = MIN_INSPECTIONS * len(PARTS)
# Pieces that an inspection is cut into if it must lie on both sides, and the frames from which on it is.
PIECES = 8
CUT_FROM = 2 * PIECES
CUT_OPTION = "--split-within-inspections"


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """Shares of the inspections for train, val and test; `within` cuts inspections into pieces first."""

    shares: tuple[float, float, float] = (0.6, 0.15, 0.25)
    seed: int = 0
    within: bool = False

    def __post_init__(self) -> None:
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ConfigError(f"shares of train, val and test must be positive and add up to 1, got {self.shares}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """`parts` int8 [N] by frame: 0 train, 1 val, 2 test; `units` int32 [N], what was kept together."""

    parts: NDArray[np.int8]
    units: NDArray[np.int32]

    def counts(self, labels: NDArray[np.int8]) -> dict[str, dict[str, int]]:
        """Frames, inspections and labels of each part."""
        found = {}
        for number, name in enumerate(PARTS):
            mine = self.parts == number
            labelled = mine & (labels >= 0)
            found[name] = {
                "frames": int(mine.sum()),
                "defect": int((labels[mine] == DEFECT).sum()),
                "normal": int((labels[mine] == NORMAL).sum()),
                "inspections": len(np.unique(self.units[mine])),
                "labelled inspections": len(np.unique(self.units[labelled])),
            }
        return found


def check_enough(found: Mapping[str, int], *, within: bool) -> None:
    """Raise unless `found`, inspections by label, allows holding inspections out; says how many are needed.

    Raises:
        DataError: a label is missing altogether, or too few inspections have it.
    """
    for name, other in (("defect", "normal"), ("normal", "defect")):
        if not found[name]:
            raise DataError(
                f"no frame is labelled {name}, and training needs both kinds: add rows with Label {name} to the labels "
                f"file, or images in a folder called {name}/ (there are {found[other]} inspections with {other} labels)"
            )
    if min(found.values()) < NEEDED and not within:
        raise DataError(
            f"inspections are held out whole to measure on, so at least {NEEDED} must have defect labels and {NEEDED} "
            f"normal ones; there are {found['defect']} and {found['normal']}. Label frames of more inspections (a "
            f"video is one). Or split frames of one inspection with {CUT_OPTION}: what is then measured is too "
            "good, since both sides show the same pipes"
        )


def split_frames(
    labels: NDArray[np.int8], inspections: NDArray[np.int32], official: NDArray[np.int8], plan: SplitPlan
) -> Split:
    """Give each frame a part.

    Args:
        labels: int8 [N]: 1 defect, 0 normal, -1 unlabelled.
        inspections: int32 [N], from 0.
        official: int8 [N]: frames of 0 stay out of test, those of 1 go there, those of -1 are free.
        plan: shares, seed.

    Raises:
        DataError: too few inspections have one of the labels.
    """
    units = _cut(inspections) if plan.within else inspections
    has = _has_label(labels, units)
    found = {name: int(has[:, value].sum()) for name, value in LABELS.items()}
    _check_pieces(found) if plan.within else check_enough(found, within=False)
    part_of_unit = _assign(has, _allowed(units, official), plan)
    return Split(parts=part_of_unit[units], units=units)


def _check_pieces(found: Mapping[str, int]) -> None:
    if min(found.values()) < NEEDED:
        raise DataError(
            f"even with inspections cut into pieces, {found['defect']} pieces have defect labels and {found['normal']} "
            f"normal ones, of at least {NEEDED} needed: label more frames, spread over the inspections"
        )


def _has_label(labels: NDArray[np.int8], units: NDArray[np.int32]) -> Bools:
    """bool [U, 2]: whether the unit has normal, defect frames."""
    has = np.zeros((int(units.max()) + 1, 2), np.bool_)
    known = labels >= 0
    has[units[known], labels[known]] = True
    return has


def _allowed(units: NDArray[np.int32], official: NDArray[np.int8]) -> Bools:
    """bool [U, 3]: the parts that the unit may go to."""
    n = int(units.max()) + 1
    in_train, free = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    in_train[units[official == 0]] = True
    free[units[official == -1]] = True
    not_held_out = free | in_train
    return np.stack([not_held_out, not_held_out, free & ~in_train | ~not_held_out], axis=1)


def _assign(has: Bools, allowed: Bools, plan: SplitPlan) -> NDArray[np.int8]:
    """A part for each unit, int8 [U]: first what every part must have, then whatever part lacks most."""
    part = np.full(len(has), -1, np.int8)
    order = np.random.default_rng(plan.seed).permutation(len(has))
    # Those that have both kinds serve defects first; normals then come from units without defects.
    for label in (DEFECT, NORMAL):
        both = (has[:, NORMAL] & has[:, DEFECT])[order]
        wanted = order[np.argsort(~both if label == DEFECT else both, kind="stable")]
        for target in (TEST, VAL, TRAIN):
            missing = MIN_INSPECTIONS - int((has[:, label] & (part == target)).sum())
            candidates = [u for u in wanted if has[u, label] and part[u] < 0 and allowed[u, target]]
            if len(candidates) < missing:
                raise DataError(_cannot_be_split(label, target))
            part[candidates[: max(0, missing)]] = target
    for stratum in (has[:, DEFECT], has[:, NORMAL] & ~has[:, DEFECT]):
        shares = np.array(plan.shares) * int(stratum.sum())
        for unit in order:
            if stratum[unit] and part[unit] < 0:
                lacking = shares - np.bincount(part[stratum & (part >= 0)], minlength=3)
                part[unit] = np.argmax(np.where(allowed[unit], lacking, -np.inf))
    part[part < 0] = TRAIN
    return part


def _cannot_be_split(label: int, target: int) -> str:
    name = next(name for name, value in LABELS.items() if value == label)
    return (
        f"{PARTS[target]} cannot get {MIN_INSPECTIONS} inspections with {name} labels: too few of them have any, or "
        f"too few are free of the other kind. Label frames of more inspections, or give {CUT_OPTION}"
    )


def _cut(inspections: NDArray[np.int32]) -> NDArray[np.int32]:
    """Units of consecutive frames: each inspection of `CUT_FROM` frames and more in `PIECES` pieces."""
    units = np.zeros(len(inspections), np.int64)
    for number in range(int(inspections.max()) + 1):
        mine = np.flatnonzero(inspections == number)
        pieces = PIECES if len(mine) >= CUT_FROM else 1
        units[mine] = number * PIECES + np.arange(len(mine)) * pieces // len(mine)
    return np.unique(units, return_inverse=True)[1].astype(np.int32)
