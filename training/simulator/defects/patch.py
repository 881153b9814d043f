"""A piece of the wall around one place, in local coordinates, that a defect is worked into.

Shapes: H rows along the pipe, W columns around it. Lengths are pipe radii; on the wall an arc of one radian is one
radius long, so both axes have the same scale. Where the wall's window ends, the patch is cut off; everything a defect
does is a function of the texel alone, so the part that is inside does not depend on the cut.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from training.simulator.materials import RGB
from training.simulator.noise import COLUMNS, ROWS_PER_RADIUS, Kind, draw_field
from training.simulator.wall import Wall


class Patch:
    """Copies of the wall's maps within `half_length` along and `half_arc` around (z, theta); `write` puts them back.

    `along` [H, 1] and `around` [1, W] are the distances from the place, towards the far end and clockwise;
    `theta` [1, W] is the angle from the crown.
    """

    def __init__(self, wall: Wall, z: float, theta: float, *, half_length: float, half_arc: float) -> None:
        first = max(wall.first_row, math.floor((z - half_length) * ROWS_PER_RADIUS))
        last = min(wall.first_row + wall.rows, math.ceil((z + half_length) * ROWS_PER_RADIUS) + 1)
        half_columns = min(COLUMNS // 2, math.ceil(half_arc * COLUMNS / (2 * math.pi)))
        offsets = torch.arange(-half_columns, half_columns)
        self._wall = wall
        self._rows = torch.arange(first, max(first, last))
        self._columns = (round(theta * COLUMNS / (2 * math.pi)) + offsets) % COLUMNS
        self.along = (self._rows / ROWS_PER_RADIUS - z).view(-1, 1)
        self.around = offsets.view(1, -1) * (2 * math.pi / COLUMNS)
        self.theta = theta + self.around
        rows, columns = self._here()
        self.relief, self.gloss = wall.relief[rows, columns].clone(), wall.gloss[rows, columns].clone()
        self.classes, self.albedo = wall.classes[rows, columns].clone(), wall.albedo[:, rows, columns].clone()

    @property
    def empty(self) -> bool:
        """Whether the patch lies wholly outside the window."""
        return len(self._rows) == 0

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return len(self._rows), len(self._columns)

    def noise(self, kind: Kind, generator: Generator) -> Tensor:
        """Noise [H, W], mean 0, deviation 1."""
        return draw_field(kind, generator).at(self._rows, self._columns)

    def blob(self, generator: Generator, *, length: float, arc: float, raggedness: float) -> Tensor:
        """[H, W] signed: positive inside a patch of the half axes `length` and `arc` with a ragged outline."""
        distance = torch.sqrt((self.along / length) ** 2 + (self.around / arc) ** 2)
        return 1 - distance + raggedness * (self.noise("medium", generator) + 0.4 * self.noise("fine", generator))

    def paint(self, colour: RGB, amount: Tensor) -> None:
        """Blend `colour` (linear RGB) over the albedo by `amount` [H, W] in [0, 1]."""
        self.albedo = self.albedo + (torch.tensor(colour).view(3, 1, 1) - self.albedo) * amount

    def shade(self, factor: Tensor) -> None:
        """Multiply the albedo by `factor` [H, W]."""
        self.albedo = self.albedo * factor

    def mark(self, where: Tensor, class_index: int) -> None:
        """Give the texels of the bool map `where` [H, W] to a class."""
        self.classes = torch.where(where, torch.tensor(class_index, dtype=torch.uint8), self.classes)

    def write(self) -> None:
        """Put the worked maps back into the wall."""
        rows, columns = self._here()
        self._wall.relief[rows, columns], self._wall.gloss[rows, columns] = self.relief, self.gloss
        self._wall.classes[rows, columns] = self.classes
        self._wall.albedo[:, rows, columns] = self.albedo

    def _here(self) -> tuple[Tensor | slice, Tensor | slice]:
        """Where the patch lies in the wall's maps: slices, which are faster, unless it crosses the seam."""
        rows = self._rows - self._wall.first_row
        if len(rows) and int(self._columns[0]) < int(self._columns[-1]):
            return _span(rows), _span(self._columns)
        return rows.view(-1, 1), self._columns.view(1, -1)


def _span(rising: Tensor) -> slice:
    return slice(int(rising[0]), int(rising[-1]) + 1)


def soft(signed: Tensor, width: float) -> Tensor:
    """0..1 where `signed` goes from below to above 0 within about `width`."""
    return torch.sigmoid(signed * (4 / width))


def crooked_line(
    generator: Generator,
    *,
    start: tuple[float, float],
    heading: float,
    length: float,
    step: float,
    wander: float,
) -> Tensor:
    """Points [K, 2] (along, around) of a line of `length` that wanders by about `wander` radians a `step`."""
    count = max(3, round(length / step))
    turns = torch.randn(count, generator=generator) * wander
    headings = heading + 0.6 * (turns.cumsum(0) + turns)
    steps = torch.stack((torch.cos(headings), torch.sin(headings)), dim=1) * step
    return torch.cat((torch.zeros(1, 2), steps.cumsum(0))) + torch.tensor(start)


def distance_to_line(patch: Patch, points: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [H, W] of each texel to a polyline [K, 2], and how far along it (0..1) the nearest point lies."""
    nearest = torch.full(patch.shape, 1e9)
    progress = torch.zeros(patch.shape)
    segments = len(points) - 1
    for i in range(segments):
        (a0, a1), (b0, b1) = points[i].tolist(), points[i + 1].tolist()
        d0, d1 = b0 - a0, b1 - a1
        share = ((patch.along - a0) * d0 + (patch.around - a1) * d1) / (d0 * d0 + d1 * d1 + 1e-12)
        share = share.clamp(0, 1)
        gap = torch.hypot(patch.along - a0 - share * d0, patch.around - a1 - share * d1)
        closer = gap < nearest
        nearest = torch.where(closer, gap, nearest)
        progress = torch.where(closer, (i + share) / segments, progress)
    return nearest, progress
