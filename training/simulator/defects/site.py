"""Where one defect goes: its place on the wall in the wall's own units."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from training.data.classes import CLASS_CODES
from training.simulator.defects.patch import Patch
from training.simulator.wall import Billboard, Wall
from training.simulator.world import Defect, PipeWorld


@dataclass(frozen=True, kw_only=True)
class Site:
    """A defect's place: `z` along the pipe in radii, `theta` clockwise from the crown in radians."""

    wall: Wall
    world: PipeWorld
    defect: Defect

    @property
    def z(self) -> float:
        """Middle of the defect along the pipe, in radii."""
        return self.defect.distance_m / self.world.radius_m

    @property
    def theta(self) -> float:
        """Angle of the clock position, in radians."""
        return self.defect.clock / 12 * 2 * math.pi

    @property
    def severity(self) -> float:
        """0 (barely visible) to 1 (gross)."""
        return self.defect.severity

    @property
    def half_length(self) -> float:
        """Half the defect's extent along the pipe, in radii, within what a picture can show of one."""
        return min(1.8, max(0.35, self.defect.length_m / 2 / self.world.radius_m))

    @property
    def class_index(self) -> int:
        """What the class map holds for this defect: its index in CLASS_CODES plus 1."""
        return CLASS_CODES.index(self.defect.code) + 1

    def patch(self, *, half_length: float, half_arc: float) -> Patch:
        """The wall around this place."""
        return Patch(self.wall, self.z, self.theta, half_length=half_length, half_arc=half_arc)

    def hang(self, draw: Callable[[], Tensor]) -> None:
        """Hang a picture of the cross-section (float32 [4, S, S]) at this place; drawn once a pipe, not a window."""
        drawn = self.wall.hangings
        if self.defect not in drawn:
            drawn[self.defect] = draw()
        self.wall.billboards.append(Billboard(z=self.z, rgba=drawn[self.defect], class_index=self.class_index))
