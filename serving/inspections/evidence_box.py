"""Where on a picture the evidence lies: a box in its pixels, and the clock position of the box. Pure.

Frames are squashed to a square whole, nothing cut off and nothing added, so an evidence map [h, w] covers the picture
from edge to edge: cell (row, column) stands for the pixels from `column / w` to `(column + 1) / w` of its width and
from `row / h` to `(row + 1) / h` of its height.

A score is learnt from whole frames, so both are estimates of where to look, never measurements.

Shape legend: h w evidence map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.pairs.manifest import Calibration

_RISE = 0.5
"""Share of the way from the picture's mean evidence up to its strongest that a cell needs to belong to the box."""

_ALIKE = 1.0
"""Logits below the strongest within which cells are all the same: differences that small are noise."""

_CENTRAL = 0.1
"""How near to the picture's centre, against half its shorter side, a box's centre points in no direction."""


@dataclass(frozen=True, kw_only=True)
class EvidenceBox:
    """A box in the pixels of the upright picture, as the video stores them, (0, 0) at its top left corner.

    `picture_width` and `picture_height` say of what size that picture is, since pictures are also shown smaller.
    """

    x: int
    y: int
    width: int
    height: int
    picture_width: int
    picture_height: int


def evidence_box(
    evidence: NDArray[np.float32], calibration: Calibration, *, picture_size: tuple[int, int]
) -> EvidenceBox:
    """The box around the strongest cell of `evidence` [h, w] and the strong ones that hang together with it, on a
    picture of (width, height).

    Strong is what stands out from its own picture, by half of what the strongest does: the heat that
    `serving.inspections.overlay` shows saturates, so a bad picture is hot nearly everywhere. Cells hang together by
    their sides and corners. Raises `ValueError` on another shape, or a picture without pixels.
    """
    width, height = picture_size
    if evidence.ndim != 2 or evidence.size == 0 or width < 1 or height < 1:
        raise ValueError(f"expected evidence [h, w] and a picture, got {evidence.shape} and {width} x {height}")
    logits = calibration.slope * evidence.astype(np.float64) + calibration.intercept
    mean, strongest = logits.mean(), logits.max()
    strong = logits >= min(mean + _RISE * (strongest - mean), strongest - _ALIKE)
    row, column = divmod(int(np.argmax(logits)), logits.shape[1])
    rows, columns = zip(*_around((row, column), strong), strict=True)
    n_rows, n_columns = evidence.shape
    left, right = width * min(columns) // n_columns, -(-width * (max(columns) + 1) // n_columns)
    top, bottom = height * min(rows) // n_rows, -(-height * (max(rows) + 1) // n_rows)
    return EvidenceBox(
        x=left, y=top, width=right - left, height=bottom - top, picture_width=width, picture_height=height
    )


def clock_position(box: EvidenceBox, *, pixel_aspect: float) -> int | None:
    """Hour, 1 to 12, at which the box's centre lies as seen from the picture's centre; 12 is up, 3 is right.

    None where the centres nearly coincide, as for evidence all over the picture or ahead in the pipe. `pixel_aspect` is
    the width over the height of a pixel: without it, a diagonal of a PAL picture would lie at another hour.
    """
    right = (box.x + box.width / 2 - box.picture_width / 2) * pixel_aspect
    down = box.y + box.height / 2 - box.picture_height / 2
    shorter_half = min(box.picture_width * pixel_aspect, box.picture_height) / 2
    if math.hypot(right, down) < _CENTRAL * shorter_half:
        return None
    hours = math.degrees(math.atan2(right, -down)) / 30  # -6 to 6
    return round(hours) % 12 or 12


def _around(start: tuple[int, int], inside: NDArray[np.bool_]) -> set[tuple[int, int]]:
    """The cells of `inside` [h, w] that are joined to `start`, which is one of them."""
    found, waiting = {start}, [start]
    while waiting:
        row, column = waiting.pop()
        for i in range(max(0, row - 1), min(inside.shape[0], row + 2)):
            for j in range(max(0, column - 1), min(inside.shape[1], column + 2)):
                if inside[i, j] and (i, j) not in found:
                    found.add((i, j))
                    waiting.append((i, j))
    return found
