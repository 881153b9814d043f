"""Defects of the pipe itself: RB cracks and breaks, OB surface damage, PF production errors, DE deformation,
FS displaced joints."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from training.simulator.defects.patch import Patch, crooked_line, distance_to_line, soft
from training.simulator.defects.site import Site
from training.simulator.noise import pick, uniform

SOIL = (0.10, 0.075, 0.05)


def crack(site: Site, generator: Generator) -> None:
    """RB: a crack along, around or branching; from half severity up with a hole where shards have fallen out."""
    s = site.severity
    reach = min(1.5, 0.5 * site.half_length + 0.3 + 0.6 * s)
    patch = site.patch(half_length=reach + 0.2, half_arc=min(math.pi, reach + 0.2))
    heading = pick(generator, (0.0, math.pi / 2, uniform(generator, 0.4, 1.2)))
    lines = [_centred_line(generator, heading, 2 * reach)]
    for _ in range(int(torch.randint(0, 2 + round(4 * s), (), generator=generator))):
        trunk = lines[0]
        start = trunk[int(torch.randint(len(trunk), (), generator=generator))]
        lines.append(
            crooked_line(
                generator,
                start=(float(start[0]), float(start[1])),
                heading=heading + uniform(generator, 0.5, 2.4) * (1 if uniform(generator) < 0.5 else -1),
                length=uniform(generator, 0.3, 1.0) * reach,
                step=0.07,
                wander=0.5,
            )
        )
    width = 0.012 + 0.035 * s * uniform(generator, 0.5, 1.2)
    side = patch.noise("medium", generator) * 0.012 * s
    for i, line in enumerate(lines):
        gap, progress = distance_to_line(patch, line)
        taper = (1 - progress * 0.7) if i else 1 - (2 * progress - 1).abs() ** 3 * 0.8
        open_width = width * taper * (0.7 + 0.3 * patch.noise("fine", generator)).clamp(0.2, 1.6)
        depth = torch.exp(-((gap / open_width.clamp(min=0.004)) ** 2))
        patch.relief = patch.relief - (0.05 + 0.08 * s) * depth
        patch.shade(1 - 0.85 * depth)
        worn = torch.exp(-gap / (4 * width)) * (0.25 * patch.noise("fine", generator)).clamp(min=0)
        patch.shade(1 - worn)
        patch.mark(gap < open_width * 1.3 + 0.008, site.class_index)
    patch.relief = patch.relief + side
    if s > 0.5:
        _fallen_out(patch, site, generator, lines[0])
    patch.write()


def _centred_line(generator: Generator, heading: float, length: float) -> Tensor:
    line = crooked_line(generator, start=(0.0, 0.0), heading=heading, length=length, step=0.08, wander=0.35)
    return line - line.mean(0)


def _fallen_out(patch: Patch, site: Site, generator: Generator, line: Tensor) -> None:
    centre = line[len(line) // 2]
    size = uniform(generator, 0.12, 0.4) * (0.4 + site.severity)
    distance = torch.sqrt(
        ((patch.along - centre[0]) / size) ** 2
        + ((patch.around - centre[1]) / (size * uniform(generator, 0.6, 1.4))) ** 2
    )
    inside = soft(1 - distance + 0.3 * patch.noise("medium", generator), 0.12)
    rough = patch.noise("fine", generator)
    patch.relief = patch.relief - inside * (0.16 + 0.04 * rough)
    patch.paint(SOIL, inside * 0.9)
    patch.shade(1 + 0.25 * inside * rough)
    patch.gloss = patch.gloss * (1 - inside)
    patch.mark(inside > 0.5, site.class_index)


def surface_damage(site: Site, generator: Generator) -> None:
    """OB: spalled or corroded surface, the aggregate laid bare."""
    s = site.severity
    length, arc = min(1.2, site.half_length), 0.25 + 0.7 * s * uniform(generator, 0.6, 1.3)
    patch = site.patch(half_length=1.6 * length, half_arc=1.6 * arc)
    inside = soft(patch.blob(generator, length=length, arc=arc, raggedness=0.5), 0.2)
    pebbles = patch.noise("pebble", generator).clamp(min=-0.3) + 0.5 * patch.noise("pebble", generator)
    patch.relief = patch.relief - inside * (0.03 + 0.05 * s) + inside * (0.014 + 0.02 * s) * pebbles
    patch.shade(1 + inside * (0.30 * pebbles - 0.08))
    patch.gloss = patch.gloss * (1 - 0.8 * inside)
    patch.mark(inside > 0.5, site.class_index)
    patch.write()


def production_error(site: Site, generator: Generator) -> None:
    """PF: blisters, or folds that run along or around (a liner's wrinkles)."""
    s = site.severity
    length, arc = max(0.5, min(1.4, site.half_length)), 0.5 + 0.8 * s
    patch = site.patch(half_length=1.3 * length, half_arc=min(math.pi, 1.3 * arc))
    within = soft(patch.blob(generator, length=length, arc=arc, raggedness=0.15), 0.4)
    if uniform(generator) < 0.5:
        bulge = torch.zeros(patch.shape)
        for _ in range(4 + round(14 * s)):
            u, v = uniform(generator, -length, length), uniform(generator, -arc, arc)
            size = uniform(generator, 0.05, 0.16)
            bulge = torch.maximum(
                bulge,
                (1 - ((patch.along - u) ** 2 + (patch.around - v) ** 2) / size**2).clamp(min=0) ** 0.5 * size,
            )
        raised = bulge * (0.5 + 0.3 * s) * within
    else:
        lengthwise = uniform(generator) < 0.5
        across = patch.around.expand(patch.shape) if lengthwise else patch.along.expand(patch.shape)
        phase = across * uniform(generator, 9, 16) + 1.5 * patch.noise("broad", generator)
        raised = (torch.sin(phase).clamp(min=0) ** 2) * (0.04 + 0.08 * s) * within
    patch.relief = patch.relief + raised
    patch.mark(raised > 0.012, site.class_index)
    patch.write()


def deformation(site: Site, generator: Generator) -> None:
    """DE: the section is pressed out of round."""
    s = site.severity
    length = max(1.0, site.half_length)
    patch = site.patch(half_length=1.6 * length, half_arc=math.pi)
    axis = uniform(generator, 0, math.pi)
    amount = (0.07 + 0.20 * s) * torch.exp(-((patch.along / length) ** 4))
    oval = torch.cos(2 * (patch.theta - axis)) + 0.35 * torch.cos(3 * (patch.theta - axis)) * uniform(generator)
    change = amount * oval
    patch.relief = patch.relief + change
    patch.mark(change.abs() > 0.055, site.class_index)
    patch.write()


def displaced_joint(site: Site, generator: Generator) -> None:
    """FS: at a joint the next pipe sits off axis, apart, or both: a crescent step and an open dark gap."""
    s = site.severity
    patch = site.patch(half_length=3.0, half_arc=math.pi)
    side = site.theta + uniform(generator, -0.5, 0.5)
    edge = 0.012 * patch.noise("medium", generator)
    beyond = soft(patch.along + edge, 0.02) * torch.exp(-((patch.along.clamp(min=0) / 1.8) ** 2))
    offset = (0.05 + 0.22 * s) * torch.cos(patch.theta - side)
    patch.relief = patch.relief + offset * beyond
    gap_width = 0.035 + 0.10 * s * uniform(generator, 0.4, 1.0)
    gap = soft(gap_width - (patch.along + edge).abs(), 0.025)
    tilted = (0.65 + 0.35 * torch.cos(patch.theta - side - uniform(generator, -1, 1))).clamp(min=0.1)
    patch.relief = patch.relief - gap * tilted * (0.08 + 0.12 * s)
    patch.paint(SOIL, gap * tilted * 0.8)
    face = (patch.along.abs() < gap_width + 0.03) & ((offset.abs() > 0.03) | (tilted > 0.4))
    patch.mark(face.expand(patch.shape), site.class_index)
    patch.write()
