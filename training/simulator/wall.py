"""A window of a pipe's unrolled wall: what painters paint and the renderer looks up.

Shapes: Z rows along the window, T = COLUMNS columns clockwise from the crown. Lengths are pipe radii; relief is
positive where the wall stands in and negative where material is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from training.simulator.world import Defect


@dataclass(frozen=True, kw_only=True)
class Billboard:
    """Something that hangs in the pipe: `rgba` float32 [4, S, S] over the square [-1, 1]^2 of the cross-section at
    `z`, row 0 at the crown; `class_index` as in the class map, 0 for what is no defect."""

    z: float
    rgba: Tensor
    class_index: int


@dataclass(kw_only=True)
class Wall:
    """A window of a pipe's wall, from row `first_row` on: `relief`, `gloss` float32 [Z, T], `albedo` float32
    [3, Z, T], `classes` uint8 [Z, T] (0 or index in CLASS_CODES plus 1), and what hangs in it. `hangings` are the
    pictures of that which the windows of one pipe share."""

    first_row: int
    relief: Tensor
    albedo: Tensor
    gloss: Tensor
    classes: Tensor
    hangings: dict[Defect, Tensor]
    billboards: list[Billboard] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows of the window."""
        return int(self.relief.shape[0])
