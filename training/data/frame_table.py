"""A data set as training sees it: which frames there are, what is known of each, and where their bytes lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serving.errors import DataError
from training.data.classes import CLASS_CODES
from training.data.image_store import ImageStore

DEFECT, NORMAL, UNLABELLED = 1, 0, -1
NO_INSPECTION = -1

Split = Literal["train", "val", "test", "all"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameTable:
    """N frames of one split of one data set.

    Attributes:
        source: what the data are, in words; goes into packs and, from there, into manifests.
        split: train, val, test, or all of an unsplit set.
        names: unique names, N.
        labels: int8 [N]: 1 defect, 0 normal, -1 unlabelled.
        classes: uint8 [N, 17], 1 where the frame shows that class of `CLASS_CODES`; zeros where unknown.
        inspections: int32 [N], which frames come from the same inspection; -1 unknown.
        store: where the images lie.
        notes: what whoever uses the frames should know.
    """

    source: str
    split: str
    names: tuple[str, ...]
    labels: NDArray[np.int8]
    classes: NDArray[np.uint8]
    inspections: NDArray[np.int32]
    store: ImageStore
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.names)
        for column, dtype, shape in (
            ("labels", np.int8, (n,)),
            ("classes", np.uint8, (n, len(CLASS_CODES))),
            ("inspections", np.int32, (n,)),
        ):
            values = getattr(self, column)
            if values.dtype != dtype or values.shape != shape:
                raise TypeError(f"{column} must be {np.dtype(dtype)} {shape}, got {values.dtype} {values.shape}")
        if n == 0:
            raise DataError(f"{self.source}, {self.split}: there are no frames")
        if len(set(self.names)) != n:
            raise DataError(f"{self.source}, {self.split}: frame names are not unique")
        for name in self.names:
            # Packs keep names in a text file, one a line; Linux allows names that are no text.
            if "\n" in name or not _is_text(name):
                raise DataError(f"{self.source}, {self.split}: file name {name!r} is not a line of text; rename it")

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: NDArray[np.int64]) -> FrameTable:
        """The frames at `indices`, in that order."""
        return replace(
            self,
            names=tuple(self.names[i] for i in indices.tolist()),
            labels=self.labels[indices],
            classes=self.classes[indices],
            inspections=self.inspections[indices],
        )

    def counts(self) -> dict[str, int]:
        """How many frames have each label."""
        return count_labels(self.labels)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def count_labels(labels: NDArray[np.int8]) -> dict[str, int]:
    """Frames per label: keys `defect`, `normal`, `unlabelled`."""
    values = {"defect": DEFECT, "normal": NORMAL, "unlabelled": UNLABELLED}
    return {name: int(np.count_nonzero(labels == value)) for name, value in values.items()}
