"""Subsets with an exact share of defect frames, drawn inside one split.

Otero et al. (arXiv 2410.04289) keep all normal frames of Sewer-ML's train split and add as many defect frames as
make 1, 2, 5 or 15 % of the total: 5,584, 11,282, 29,096 and 97,556 for 552,820 normals, which is p N / (1 - p)
rounded to the nearest whole frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.durable import sha256_bytes
from serving.errors import ConfigError, DataError
from training.data.frame_table import DEFECT, NORMAL, UNLABELLED


@dataclass(frozen=True, kw_only=True, eq=False)
class Subset:
    """Frames chosen from a split: `indices` int64, ascending, and what they were drawn with."""

    indices: NDArray[np.int64]
    defect_proportion: float
    seed: int
    n_defect: int
    n_normal: int
    left_out_defect: int
    left_out_normal: int
    left_out_unlabelled: int

    def record(self) -> dict[str, Any]:
        """What a pack or a run should remember, as JSON values; `digest` tells two draws apart."""
        return {
            "defect_proportion": self.defect_proportion,
            "seed": self.seed,
            "n_defect": self.n_defect,
            "n_normal": self.n_normal,
            "drawn_proportion": self.n_defect / (self.n_defect + self.n_normal),
            "left_out": {
                "defect": self.left_out_defect,
                "normal": self.left_out_normal,
                "unlabelled": self.left_out_unlabelled,
            },
            "digest": sha256_bytes(self.indices.astype("<i8").tobytes()),
        }


def defects_needed(n_normal: int, defect_proportion: float) -> int:
    """Defect frames that make up `defect_proportion` of the whole beside `n_normal` normal ones, rounded."""
    share = _share(defect_proportion)
    return round(share * n_normal / (1 - share))


def draw_subset(labels: NDArray[np.int8], *, defect_proportion: float, seed: int, frames: int | None = None) -> Subset:
    """Draw frames of which `defect_proportion` are defects, exactly but for rounding to whole frames.

    All normal frames are kept and the defects drawn; where the split has too few defects for that, all of them are
    kept and the normals drawn. For one seed the draws are nested: of two proportions, the defects of the smaller
    are among those of the larger, and the same holds for the sizes that `frames` asks for.

    Args:
        labels: int8 [N]: 1 defect, 0 normal, -1 unlabelled (never drawn).
        defect_proportion: share of defects among the drawn frames, in (0, 1).
        seed: chooses the frames.
        frames: how many to draw in all; as many as there can be by default.

    Raises:
        ConfigError: the proportion or the number of frames is out of range.
        DataError: the split has too few frames of one label.
    """
    if labels.ndim != 1 or not np.isin(labels, (DEFECT, NORMAL, UNLABELLED)).all():
        raise DataError("labels must be one of 1 (defect), 0 (normal) and -1 (unlabelled) per frame")
    if seed < 0:
        raise ConfigError(f"the subset seed must not be negative, got {seed}")
    defects, normals = np.flatnonzero(labels == DEFECT), np.flatnonzero(labels == NORMAL)
    n_defect, n_normal = _counts(len(defects), len(normals), defect_proportion, frames)
    # A label's own stream, so that how many of one are drawn does not move the other.
    chosen_defects = np.random.default_rng((seed, DEFECT)).permutation(defects)[:n_defect]
    chosen_normals = np.random.default_rng((seed, NORMAL)).permutation(normals)[:n_normal]
    return Subset(
        indices=np.sort(np.concatenate((chosen_defects, chosen_normals))).astype(np.int64),
        defect_proportion=defect_proportion,
        seed=seed,
        n_defect=n_defect,
        n_normal=n_normal,
        left_out_defect=len(defects) - n_defect,
        left_out_normal=len(normals) - n_normal,
        left_out_unlabelled=int(np.count_nonzero(labels == UNLABELLED)),
    )


def _counts(defects: int, normals: int, defect_proportion: float, frames: int | None) -> tuple[int, int]:
    share = _share(defect_proportion)
    if frames is not None:
        n_defect = round(share * frames)
        n_normal = frames - n_defect
    else:
        n_defect, n_normal = defects_needed(normals, defect_proportion), normals
        if n_defect > defects:
            n_defect, n_normal = defects, round(defects * (1 - share) / share)
    if n_defect > defects or n_normal > normals:
        raise DataError(
            f"{n_defect} defect and {n_normal} normal frames are needed, and the split has {defects} and {normals}: "
            "ask for fewer frames or another proportion"
        )
    if n_defect < 1 or n_normal < 1:
        raise DataError(
            f"a defect proportion of {defect_proportion} would take {n_defect} defect and {n_normal} normal frames "
            f"of {defects} and {normals}: too few for that proportion"
        )
    return n_defect, n_normal


def _share(defect_proportion: float) -> Fraction:
    if not 0 < defect_proportion < 1:
        raise ConfigError(f"the defect proportion must lie between 0 and 1, got {defect_proportion}")
    # Through the decimal that was typed: 0.05 the float is not 5 %, and halves would round by accident.
    return Fraction(repr(float(defect_proportion)))
