"""Subsets in which defects are as rare as wanted: the study's 1, 2, 5 and 15 %."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import DataError
from training.data.frame_table import DEFECT, NORMAL


@dataclass(frozen=True, kw_only=True, eq=False)
class Subset:
    """Chosen frames, as int64 indices in ascending order, and what they were chosen from."""

    indices: NDArray[np.int64]
    defect_proportion: float
    seed: int
    defects: int
    normals: int
    defects_available: int
    normals_available: int

    def record(self) -> dict[str, Any]:
        """Everything but the indices, for the pack's index."""
        return {name: value for name, value in asdict(self).items() if name != "indices"}


def defects_needed(normals: int, defect_proportion: float) -> int:
    """How many defects make up `defect_proportion` of a set with `normals` normal frames."""
    return round(normals * defect_proportion / (1 - defect_proportion))


def draw_subset(labels: NDArray[np.int8], *, defect_proportion: float, seed: int) -> Subset:
    """All normals with as many defects as the proportion asks for; fewer normals where the defects run short.

    For one seed the subsets are nested: the defects of a smaller proportion are among those of a larger one.

    Raises:
        DataError: the proportion is not between 0 and 1, a class is missing, or no subset of this size exists.
    """
    if not 0 < defect_proportion < 1:
        raise DataError(f"defect proportion {defect_proportion} is not between 0 and 1 (0.05 means 5 %)")
    rng = np.random.default_rng(seed)
    defects = rng.permutation(np.flatnonzero(labels == DEFECT))
    normals = rng.permutation(np.flatnonzero(labels == NORMAL))
    if len(defects) == 0 or len(normals) == 0:
        raise DataError(f"a subset needs both kinds, but there are {len(defects)} defects and {len(normals)} normals")
    n_normals, n_defects = len(normals), defects_needed(len(normals), defect_proportion)
    if n_defects > len(defects):
        n_defects = len(defects)
        n_normals = defects_needed(n_defects, 1 - defect_proportion)
    if n_defects == 0 or n_normals == 0:
        raise DataError(f"{len(normals)} normals are too few for a share of {defect_proportion:.2%} defects")
    return Subset(
        indices=np.sort(np.concatenate((defects[:n_defects], normals[:n_normals]))),
        defect_proportion=defect_proportion,
        seed=seed,
        defects=n_defects,
        normals=n_normals,
        defects_available=len(defects),
        normals_available=len(normals),
    )
