"""Paints the unrolled wall of a pipe, window by window: material, joints, stains, then decor and defects."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from training.simulator.decor import place_decor
from training.simulator.defects import place_defect
from training.simulator.materials import MATERIALS, RGB
from training.simulator.noise import COLUMNS, ROWS_PER_RADIUS, Field, Kind, draw_field, pick, uniform
from training.simulator.wall import Wall
from training.simulator.world import Defect, PipeWorld

# Independent drawings of each kind of noise that the bare wall is made from.
COPIES: dict[Kind, int] = {"broad": 3, "medium": 3, "fine": 2, "grain": 1, "streak": 1}

FILMS: tuple[RGB, ...] = ((0.55, 0.50, 0.42), (0.70, 0.62, 0.50), (0.45, 0.47, 0.40), (0.85, 0.78, 0.66))
STREAKS: tuple[RGB, ...] = ((0.30, 0.24, 0.17), (0.42, 0.26, 0.13), (0.58, 0.55, 0.50), (0.17, 0.16, 0.14))
DIRTS: tuple[RGB, ...] = ((0.14, 0.115, 0.09), (0.27, 0.22, 0.15), (0.50, 0.47, 0.42))


class WallPainter:
    """Draws windows of one pipe. What a texel looks like does not depend on the window that it is drawn in."""

    def __init__(self, world: PipeWorld) -> None:
        self.world = world
        generator = Generator().manual_seed(world.seed)
        self._fields: dict[tuple[Kind, int], Field] = {}
        for kind, copies in COPIES.items():
            for copy in range(copies):
                self._fields[kind, copy] = draw_field(kind, generator)
        self._hangings: dict[Defect, Tensor] = {}
        self._material = MATERIALS[world.material]
        self._low, self._high = (torch.tensor(c).view(3, 1, 1) for c in pick(generator, self._material.makes))
        self._tint = (1 + 0.025 * torch.randn(3, generator=generator)).clamp(0.9, 1.1).view(3, 1, 1)
        self._brightness = uniform(generator, 0.75, 1.1)
        self._film, self._streak, self._dirt = (
            torch.tensor(pick(generator, colours)).view(3, 1, 1) for colours in (FILMS, STREAKS, DIRTS)
        )
        self._old_level = min(0.9, world.water_level + uniform(generator, 0.0, 0.22))
        self._brick_shift = torch.rand(64, generator=generator)
        self._brick_tone = torch.randn(128, 64, generator=generator)
        self._sections = 0.88 + 0.22 * torch.rand(256, generator=generator)
        self._joint_sides = torch.rand(256, 3, generator=generator)

    def window(self, first_row: int, last_row: int) -> Wall:
        """The wall from `first_row` to before `last_row`, defects included."""
        rows, columns = torch.arange(first_row, last_row), torch.arange(COLUMNS)
        wall = self._bare(rows, columns)
        if self._material.courses:
            self._lay_courses(wall, rows, columns)
        if self._material.joint_width:
            self._cut_joints(wall, rows, columns)
        self._stain(wall, rows, columns)
        for decor in self.world.decor:
            place_decor(wall, self.world, decor)
        for defect in self.world.defects:
            place_defect(wall, self.world, defect)
        wall.albedo.clamp_(0.012, 0.95)
        wall.billboards.sort(key=lambda billboard: -billboard.z)
        return wall

    def _noise(self, kind: Kind, copy: int, rows: Tensor, columns: Tensor) -> Tensor:
        return self._fields[kind, copy].at(rows, columns)

    def _bare(self, rows: Tensor, columns: Tensor) -> Wall:
        material = self._material
        medium, grain = self._noise("medium", 0, rows, columns), self._noise("grain", 0, rows, columns)
        tone = (0.5 + 0.20 * self._noise("broad", 0, rows, columns) + 0.15 * medium).clamp(0, 1)
        shade = self._brightness * (1 + material.grain * grain)
        gloss = material.gloss * (0.5 + self.world.wetness)
        return Wall(
            first_row=int(rows[0]),
            relief=material.bump * (0.6 * medium + 0.3 * self._noise("fine", 0, rows, columns) + 0.1 * grain),
            albedo=(self._low + (self._high - self._low) * tone) * self._tint * shade,
            gloss=gloss * (0.8 + 0.2 * medium),
            classes=torch.zeros(len(rows), len(columns), dtype=torch.uint8),
            hangings=self._hangings,
        )

    def _lay_courses(self, wall: Wall, rows: Tensor, columns: Tensor) -> None:
        courses, brick_length = 26, 0.62
        course = (columns * courses / COLUMNS).view(1, -1)
        along = rows.view(-1, 1) / ROWS_PER_RADIUS / brick_length + self._brick_shift[course.long()]
        edge = torch.maximum((course % 1 - 0.5).abs() - 0.43, (along % 1 - 0.5).abs() - 0.475)
        edge = edge + 0.012 * self._noise("fine", 1, rows, columns)
        mortar = torch.sigmoid(edge * 90)
        tone = self._brick_tone[along.floor().long() % 128, course.long().expand_as(along)]
        wall.albedo *= (1 + 0.16 * tone) * (1 - mortar)
        wall.albedo += mortar * torch.tensor((0.38, 0.35, 0.30)).view(3, 1, 1) * (0.85 + 0.1 * tone)
        wall.relief += 0.006 * tone * (1 - mortar) - 0.018 * mortar

    def _cut_joints(self, wall: Wall, rows: Tensor, columns: Tensor) -> None:
        """Clean joints: a groove, dirt beside it, the next section a little off and of its own tone."""
        z = rows / ROWS_PER_RADIUS
        angle = columns * (2 * math.pi / COLUMNS)
        tone = torch.ones(len(rows))
        for index, distance_m in enumerate(self.world.joints_m):
            at = distance_m / self.world.radius_m
            side, off, grime = self._joint_sides[index % 256].tolist()
            tone = torch.where(z >= at, self._sections[index % 256], tone)
            near = ((z - at).abs() < 0.8).nonzero()[:, 0]
            if len(near) == 0:
                continue
            here = slice(int(near[0]), int(near[-1]) + 1)
            local = (z[here] - at).view(-1, 1)
            ragged = self._noise("fine", 1, rows[here], columns)
            wear = self.world.joint_wear
            width = self._material.joint_width * (0.7 + 0.9 * wear)
            groove = torch.exp(-(((local + 0.2 * width * ragged) / width) ** 4))
            step = 0.02 * off * torch.cos(angle - side * 6.28) * torch.sigmoid(local * 80)
            wall.relief[here] += step * torch.exp(-3 * local.clamp(min=0)) - self._material.joint_depth * groove
            halo = torch.exp(-((local / (5 * width)) ** 2)) * grime * (0.15 + 0.5 * wear)
            wall.albedo[:, here] *= (1 - 0.7 * groove) * (1 - halo * (0.6 + 0.3 * ragged)).clamp(0.2, 1.1)
        wall.albedo *= tone.view(1, -1, 1)

    def _stain(self, wall: Wall, rows: Tensor, columns: Tensor) -> None:
        """What every pipe has and no inspector codes: waterline, biofilm, runs, dirt, damp."""
        world = self.world
        height = -torch.cos(columns * (2 * math.pi / COLUMNS)).view(1, -1)  # 1 at the invert
        line = 1 - 2 * self._old_level + 0.05 * self._noise("medium", 1, rows, columns)
        film = torch.sigmoid((height - line) * 20) * (0.25 + 0.75 * world.biofilm)
        wall.albedo *= 1 - film * (1 - self._film)
        wall.gloss += 0.4 * film
        where = torch.sigmoid(4 * (self._noise("broad", 1, rows, columns) + 1.8 * world.stain - 1.8))
        runs = torch.sigmoid(5 * (self._noise("streak", 0, rows, columns) - 0.6)) * where
        wall.albedo.lerp_(self._streak.expand_as(wall.albedo), 0.65 * runs)
        wall.gloss += 0.4 * runs
        blotches = torch.sigmoid(6 * (self._noise("medium", 2, rows, columns) + 1.6 * world.stain - 2.3))
        wall.albedo.lerp_(self._dirt.expand_as(wall.albedo), 0.6 * blotches)
        wall.gloss += world.wetness * torch.sigmoid(5 * (self._noise("broad", 2, rows, columns) - 0.8))
