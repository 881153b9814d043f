"""What a pair saw when it was validated, to measure drift against: `reference.npz` in the pair's folder.

    {variant}_edges    float64 [B - 1]  inner edges of B bins of the score, at quantiles of the reference's scores
    {variant}_counts   int64 [B]        the reference's frames in each bin
    {variant}_mean     float32 [D]      mean of the embedding
    {variant}_scale    float32 [D]      its standard deviation in each dimension

Each variant has its own, since the variants' scores differ by more than drift should be told from. Pairs that
were exported without the file are valid; their drift cannot be measured. Shape legend: N frames, B bins, D
feature dimension.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import PairInvalidError
from serving.pairs.manifest import Manifest
from serving.pairs.pair import Pair

REFERENCE_FILE = "reference.npz"
SCORE_BINS = 10

# A dimension that hardly varies in the reference would turn rounding into distance.
_LEAST_SCALE = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Score histogram and embedding statistics of the reference frames, for one variant.

    Attributes:
        edges: float64 [B - 1], ascending; bin b holds edges[b - 1] <= score < edges[b].
        counts: int64 [B].
        mean: float64 [D].
        scale: float64 [D], positive.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def __post_init__(self) -> None:
        _check(self.edges.ndim == 1 and bool(np.all(np.diff(self.edges) > 0)), "edges must be ascending")
        _check(self.counts.shape == (len(self.edges) + 1,), "there must be one more bin than edges")
        _check(bool(np.all(self.counts >= 0)) and self.n_frames > 0, "counts must be of at least one frame")
        _check(self.mean.ndim == 1 and self.mean.shape == self.scale.shape, "mean and scale must both be [D]")
        finite = np.isfinite(self.edges).all() and np.isfinite(self.mean).all() and np.isfinite(self.scale).all()
        _check(bool(finite), "all numbers must be finite")
        _check(bool(np.all(self.scale > 0)), "scale must be positive")

    @property
    def n_frames(self) -> int:
        return int(self.counts.sum())

    @property
    def n_bins(self) -> int:
        return len(self.counts)

    @property
    def feature_dim(self) -> int:
        return len(self.mean)

    def bin_counts(self, scores: NDArray[np.floating]) -> NDArray[np.int64]:
        """Frames in each bin, int64 [B], of scores [N]."""
        return np.bincount(np.searchsorted(self.edges, scores, side="right"), minlength=self.n_bins)


def make_reference(scores: NDArray[np.floating], embeddings: NDArray[np.floating]) -> Reference:
    """The reference that N frames make: scores [N], embeddings [N, D]; `ValueError` if there are none.

    Bins end at quantiles of the scores, so that each holds about the same number of frames; fewer than
    `SCORE_BINS` are left where many scores are equal.
    """
    if len(scores) == 0 or len(scores) != len(embeddings):
        raise ValueError(f"a reference needs frames, each with an embedding; got {len(scores)}, {len(embeddings)}")
    inner = np.linspace(0, 1, SCORE_BINS + 1)[1:-1]
    # Edges are scores that occur, and none is the lowest: so no bin is empty.
    edges = np.unique(np.quantile(scores.astype(np.float64), inner, method="inverted_cdf"))
    edges = edges[edges > scores.min()]
    values = embeddings.astype(np.float64)
    scale = values.std(0)
    floor = _LEAST_SCALE * float(np.sqrt(np.mean(scale**2))) or 1.0
    counts = np.bincount(np.searchsorted(edges, scores, side="right"), minlength=len(edges) + 1)
    return Reference(edges=edges, counts=counts, mean=values.mean(0), scale=np.maximum(scale, floor))


def reference_bytes(references: Mapping[str, Reference]) -> bytes:
    """The content of `reference.npz`, by variant."""
    arrays: dict[str, NDArray[Any]] = {}
    for variant, reference in references.items():
        arrays[f"{variant}_edges"] = reference.edges
        arrays[f"{variant}_counts"] = reference.counts
        arrays[f"{variant}_mean"] = reference.mean.astype(np.float32)
        arrays[f"{variant}_scale"] = reference.scale.astype(np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def load_reference(pair: Pair, variant: str) -> Reference | None:
    """The variant's reference, or None if the pair ships none.

    Raises `PairInvalidError` if the file is listed but is no such archive, or is of another pair's shape.
    """
    manifest, path = pair.manifest, pair.path / REFERENCE_FILE
    if REFERENCE_FILE not in manifest.files:
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[f"{variant}_{key}"] for key in ("edges", "counts", "mean", "scale")}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise PairInvalidError(f"{path} holds no reference for {variant} ({error}); make it again") from error
    try:
        reference = Reference(
            edges=arrays["edges"].astype(np.float64),
            counts=arrays["counts"].astype(np.int64),
            mean=arrays["mean"].astype(np.float64),
            scale=arrays["scale"].astype(np.float64),
        )
    except ValueError as error:
        raise PairInvalidError(f"{path}: {variant}: {error}; make it again") from error
    _check_dimension(reference, manifest, variant)
    return reference


def _check_dimension(reference: Reference, manifest: Manifest, variant: str) -> None:
    if reference.feature_dim != manifest.feature_dim:
        raise PairInvalidError(
            f"pair {manifest.name}: {REFERENCE_FILE} has {reference.feature_dim} dimensions for {variant}, the "
            f"manifest declares {manifest.feature_dim}; make it again"
        )


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
