"""Golden outputs: frames and what each variant answered to them at export, re-scored after loading.

Shape legend: n golden frames, S image side, D feature dimension, h w evidence map.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import PairInvalidError
from serving.pairs.manifest import GOLDEN_FILE
from serving.pairs.pair import Pair
from serving.scorer import Scorer

GOLDEN_ATOL: Mapping[str, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 6e-2}
"""Largest accepted difference from the golden outputs, by variant.

For `score` it is absolute; for the others it is relative to the largest golden magnitude of that output where
that is above 1. fp32 differs between machines by the order of summation, fp16 by rounding at 11 bits, int8 by
CPUs that saturate intermediate sums in 16 bits where others do not.
"""


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Reference frames, uint8 [n, S, S, 3], and per variant the four outputs as float32 arrays."""

    frames: NDArray[np.uint8]
    outputs: dict[str, dict[str, NDArray[np.float32]]]


def load_golden(pair: Pair) -> Golden:
    """Read `golden.npz` without unpickling; `PairInvalidError` if arrays are missing or of other shapes."""
    path, manifest = pair.path / GOLDEN_FILE, pair.manifest
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise PairInvalidError(f"{path} is no archive of plain arrays ({error}); export the pair again") from error
    side = manifest.image_size
    frames = _take(arrays, "frames", path, np.uint8, (side, side, 3))
    shapes = {
        "score": (),
        "logit": (),
        "embedding": (manifest.feature_dim,),
        "evidence": manifest.evidence_shape,
    }
    outputs = {
        variant: {
            output: _take(arrays, f"{variant}_{output}", path, np.float32, shape, len(frames))
            for output, shape in shapes.items()
        }
        for variant in manifest.variants
    }
    return Golden(frames=frames, outputs=outputs)


def verify_golden(scorer: Scorer) -> dict[str, float]:
    """Re-score the golden frames and compare with `GOLDEN_ATOL`.

    Returns the largest deviation of each output (see `GOLDEN_ATOL` for its unit). Raises `PairInvalidError`
    naming the variant and the output that deviates: then this machine computes something else than was
    exported.
    """
    pair = scorer.pair
    golden = load_golden(pair)
    got = scorer.score(golden.frames)
    allowed = GOLDEN_ATOL[scorer.variant]
    deviations = {}
    for output, expected in golden.outputs[scorer.variant].items():
        magnitude = max(1.0, float(np.abs(expected).max(initial=0.0)))
        difference = float(np.abs(getattr(got, output) - expected).max(initial=0.0)) / magnitude
        if not difference <= allowed:
            raise PairInvalidError(
                f"{pair.path}: variant {scorer.variant} answers its golden frames differently here: {output} "
                f"is off by {difference:.2g}, allowed {allowed:.2g}; use another variant or export again"
            )
        deviations[output] = difference
    return deviations


def _take(
    arrays: Mapping[str, NDArray[Any]],
    key: str,
    path: Path,
    dtype: type[np.generic],
    shape: tuple[int, ...],
    n: int | None = None,
) -> NDArray[Any]:
    if key not in arrays:
        raise PairInvalidError(f"{path}: array {key!r} is missing; export the pair again")
    array = arrays[key]
    fits = array.dtype == dtype and array.ndim == len(shape) + 1 and array.shape[1:] == shape
    if not fits or (n is not None and len(array) != n) or len(array) == 0:
        rows = "n" if n is None else str(n)
        expected = f"{np.dtype(dtype)} [{', '.join([rows, *map(str, shape)])}]"
        raise PairInvalidError(f"{path}: {key} is {array.dtype} {list(array.shape)}, expected {expected}")
    return array
