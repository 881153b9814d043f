"""Hard normals: things on a healthy wall that look like a defect to a colour histogram, and that no inspector codes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from training.simulator.defects.patch import Patch, crooked_line, distance_to_line, soft
from training.simulator.noise import ROWS_PER_RADIUS, pick, uniform
from training.simulator.wall import Wall
from training.simulator.world import Decor, PipeWorld

Painter = Callable[[Patch, float, float, Generator], None]


def place_decor(wall: Wall, world: PipeWorld, decor: Decor) -> None:
    """Paint one harmless feature on `wall`, in place."""
    z = decor.distance_m / world.radius_m
    length = min(1.5, max(0.3, decor.length_m / world.radius_m))
    reach = 2 * length * ROWS_PER_RADIUS
    if not wall.first_row - reach < z * ROWS_PER_RADIUS < wall.first_row + wall.rows + reach:
        return
    patch = Patch(wall, z, decor.clock / 12 * 2 * math.pi, half_length=1.6 * length, half_arc=1.6)
    PAINTERS[decor.kind](patch, length, decor.strength, Generator().manual_seed(decor.seed))
    patch.write()


def _dark_patch(patch: Patch, length: float, strength: float, generator: Generator) -> None:
    inside = soft(patch.blob(generator, length=length, arc=uniform(generator, 0.3, 0.8), raggedness=0.4), 0.5)
    patch.shade(1 - (0.2 + 0.5 * strength) * inside)


def _run(patch: Patch, length: float, generator: Generator) -> Tensor:
    """[H, W] a run of water down the wall, soft-edged, a quarter of `length` wide."""
    meander = patch.along - 0.08 * patch.noise("medium", generator)
    width = 0.25 * length * (0.7 + 0.3 * patch.noise("fine", generator))
    return soft(width - meander.abs(), 0.10) * soft(0.9 - patch.around.abs(), 0.5)


def _wet_streak(patch: Patch, length: float, strength: float, generator: Generator) -> None:
    run = _run(patch, length, generator)
    patch.gloss = patch.gloss + 1.2 * strength * run
    patch.shade(1 - 0.35 * run)


def _rust_streak(patch: Patch, length: float, strength: float, generator: Generator) -> None:
    patch.paint((0.33, 0.16, 0.06), (0.25 + 0.45 * strength) * _run(patch, length, generator))


def _lime_bloom(patch: Patch, length: float, strength: float, generator: Generator) -> None:
    inside = soft(patch.blob(generator, length=length, arc=uniform(generator, 0.2, 0.6), raggedness=0.6), 0.5)
    patch.paint((0.55, 0.53, 0.48), (0.2 + 0.5 * strength) * inside)


def _drips(patch: Patch, length: float, strength: float, generator: Generator) -> None:
    for _ in range(3 + round(8 * strength)):
        u, v = uniform(generator, -length, length), uniform(generator, -0.8, 0.8)
        drop = torch.exp(-(((patch.along - u) / 0.02) ** 2 + ((patch.around - v) / 0.05) ** 2))
        patch.gloss = patch.gloss + 1.5 * drop
        patch.shade(1 - 0.3 * drop)


def _scuff(patch: Patch, length: float, strength: float, generator: Generator) -> None:
    """Scratches that a crawler or a cleaning nozzle left: light, straight, without depth."""
    heading = uniform(generator, -0.3, 0.3)
    for _ in range(2 + round(5 * strength)):
        start = (uniform(generator, -length, 0.0), uniform(generator, -0.5, 0.5))
        line = crooked_line(generator, start=start, heading=heading, length=length, step=0.2, wander=0.03)
        gap, _ = distance_to_line(patch, line)
        patch.shade(1 + 0.35 * strength * torch.exp(-((gap / 0.015) ** 2)))


def _repair_collar(patch: Patch, length: float, strength: float, generator: Generator) -> None:
    """A sound, smooth patch of mortar or resin."""
    half = 0.6 * length
    square = torch.maximum(patch.along.abs() / half, (patch.around.abs() / uniform(generator, 0.4, 0.9)))
    plate = soft(1 - square, 0.15)
    tone = uniform(generator, 0.7, 1.2)
    patch.paint((0.40 * tone, 0.38 * tone, 0.34 * tone), (0.3 + 0.4 * strength) * plate)


def _slime_strands(patch: Patch, length: float, strength: float, generator: Generator) -> None:
    for _ in range(2 + round(4 * strength)):
        start = (uniform(generator, -length, length), uniform(generator, -0.8, 0.2))
        line = crooked_line(generator, start=start, heading=math.pi / 2, length=0.7, step=0.12, wander=0.15)
        gap, progress = distance_to_line(patch, line)
        strand = torch.exp(-((gap / (0.035 * (1 - 0.6 * progress))) ** 2))
        patch.paint((0.16, 0.14, 0.09), 0.5 * strand)
        patch.gloss = patch.gloss + 0.4 * strand


def _leaves(patch: Patch, length: float, strength: float, generator: Generator) -> None:
    """Leaves and scraps of paper stuck flat to the wall."""
    for _ in range(1 + round(4 * strength)):
        u, v = uniform(generator, -length, length), uniform(generator, -0.9, 0.9)
        turn, size = uniform(generator, 0, math.pi), uniform(generator, 0.04, 0.10)
        a = (patch.along - u) * math.cos(turn) + (patch.around - v) * math.sin(turn)
        b = (patch.around - v) * math.cos(turn) - (patch.along - u) * math.sin(turn)
        leaf = soft(1 - torch.sqrt((a / size) ** 2 + (b / (0.6 * size)) ** 2), 0.2)
        patch.paint(pick(generator, ((0.22, 0.15, 0.07), (0.12, 0.12, 0.06), (0.48, 0.46, 0.42))), 0.8 * leaf)


PAINTERS: dict[str, Painter] = {
    "dark_patch": _dark_patch,
    "wet_streak": _wet_streak,
    "rust_streak": _rust_streak,
    "lime_bloom": _lime_bloom,
    "drips": _drips,
    "scuff": _scuff,
    "repair_collar": _repair_collar,
    "slime_strands": _slime_strands,
    "leaves": _leaves,
}
