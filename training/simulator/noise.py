"""Noise on the unrolled pipe wall, quick enough to draw a wall for every few frames.

A bank of tiles is made once a process, from a fixed seed. A `Field` is a tile seen from a random place, so its value
at a texel depends on the field and the texel alone: walls drawn piece by piece fit together, and in any order.

Shapes: rows along the pipe (ROWS_PER_RADIUS each radius), COLUMNS columns clockwise from the crown.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

COLUMNS = 512
ROWS_PER_RADIUS = 48
TILE_ROWS = 2048
BANK_SEED = 20410

Kind = Literal["broad", "medium", "fine", "pebble", "grain", "streak"]
# Lattice cells of the coarsest octave along and around a tile, octaves, and how much weaker each octave is.
SPECTRA: dict[Kind, tuple[int, int, int, float]] = {
    "broad": (22, 4, 3, 0.5),
    "medium": (86, 12, 4, 0.6),
    "fine": (340, 50, 3, 0.6),
    "pebble": (680, 110, 2, 0.7),
    "grain": (TILE_ROWS, COLUMNS, 1, 1.0),
    "streak": (190, 3, 3, 0.7),
}

Item = TypeVar("Item")


@functools.cache
def _tile(kind: Kind) -> Tensor:
    cells_z, cells_t, octaves, gain = SPECTRA[kind]
    generator = Generator().manual_seed(BANK_SEED + list(SPECTRA).index(kind))
    total = torch.zeros(TILE_ROWS, COLUMNS)
    for octave in range(octaves):
        cells = (cells_z * 2**octave, cells_t * 2**octave)
        total += gain**octave * _octave(cells, generator)
    return (total - total.mean()) / total.std()


def _octave(cells: tuple[int, int], generator: Generator) -> Tensor:
    """float32 [TILE_ROWS, COLUMNS]: normal values on a lattice that closes on itself, interpolated bicubically."""
    lattice = torch.randn(1, 1, *cells, generator=generator)
    if cells == (TILE_ROWS, COLUMNS):
        return lattice[0, 0]
    closed = F.pad(lattice, (2, 2, 2, 2), mode="circular") if min(cells) > 2 else lattice
    rows, columns = (round((n + 4) * size / n) for n, size in zip(cells, (TILE_ROWS, COLUMNS), strict=True))
    fine = F.interpolate(closed, size=(rows, columns), mode="bicubic", align_corners=False)[0, 0]
    top, left = round(2 * TILE_ROWS / cells[0]), round(2 * COLUMNS / cells[1])
    return fine[top : top + TILE_ROWS, left : left + COLUMNS]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One drawing of noise over a whole pipe: mean 0, deviation 1."""

    kind: Kind
    row_offset: int
    column_offset: int

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """float32 [H, W] at the texels of int64 `rows` [H] (any integers) and `columns` [W]."""
        picked = _tile(self.kind).index_select(0, (rows + self.row_offset) % TILE_ROWS)
        return picked.index_select(1, (columns + self.column_offset) % COLUMNS)


def draw_field(kind: Kind, generator: Generator) -> Field:
    """A field that depends on the generator's state alone."""
    return Field(
        kind=kind,
        row_offset=int(torch.randint(TILE_ROWS, (), generator=generator)),
        column_offset=int(torch.randint(COLUMNS, (), generator=generator)),
    )


def uniform(generator: Generator, low: float = 0.0, high: float = 1.0) -> float:
    """One number, uniform in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def pick(generator: Generator, items: Sequence[Item]) -> Item:
    """One of `items`, all equally likely."""
    return items[int(torch.randint(len(items), (), generator=generator))]
