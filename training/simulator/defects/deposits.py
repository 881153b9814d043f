"""What came into the pipe: AF settled and BE attached deposits, FO obstacles, RO roots, IN infiltration,
IS intruding sealing material."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from training.simulator.defects.patch import crooked_line, distance_to_line, soft
from training.simulator.defects.site import Site
from training.simulator.noise import pick, uniform

CROSS_SECTION = 256  # pixels of a billboard's side


def settled_deposits(site: Site, generator: Generator) -> None:
    """AF: a bed of sand, gravel or sludge on the invert, standing out of the water."""
    s = site.severity
    length = site.half_length * (1.0 + s)
    patch = site.patch(half_length=1.4 * length, half_arc=math.pi)
    level = 2 * site.world.water_level + 0.05 + 0.22 * s
    end = torch.exp(-((patch.along / length) ** 4))
    rough = patch.noise("medium", generator)
    down = -torch.cos(patch.theta)
    # The flat top of the bed lies at height `level` over the invert: r = (1 - level) / down there.
    bed = (1 - (1 - level * end) / down.clamp(min=0.05)).clamp(min=0) * (down > 0)
    bed = bed + (0.01 + 0.015 * s) * rough * (bed > 0)
    covers = (bed > 0.005) & (bed > patch.relief + 0.01)
    patch.relief = torch.where(covers, bed, patch.relief)
    tone = uniform(generator, 0.7, 1.4)
    colour = (0.25 * tone, 0.20 * tone, 0.14 * tone)
    patch.paint(colour, covers * 0.85)
    patch.shade(1 + covers * (0.10 * rough + 0.12 * patch.noise("pebble", generator)))
    patch.mark(covers & (bed > 0.03), site.class_index)
    patch.write()


def attached_deposits(site: Site, generator: Generator) -> None:
    """BE: scale, grease or fouling stuck to the wall."""
    s = site.severity
    length, arc = min(1.2, site.half_length), 0.3 + 0.7 * s
    patch = site.patch(half_length=1.7 * length, half_arc=min(math.pi, 1.7 * arc))
    inside = soft(patch.blob(generator, length=length, arc=arc, raggedness=0.6), 0.25)
    knobs = patch.noise("fine", generator)
    patch.relief = patch.relief + inside * (0.03 + 0.07 * s) * (1 + 0.3 * knobs).clamp(min=0.1)
    tones = [(0.50, 0.46, 0.38), (0.30, 0.24, 0.17), (0.20, 0.17, 0.13), (0.42, 0.38, 0.33)]
    patch.paint(pick(generator, tones), inside * uniform(generator, 0.25, 0.7))
    patch.shade(1 + 0.15 * inside * knobs)
    patch.mark(inside > 0.5, site.class_index)
    patch.write()


def obstacle(site: Site, generator: Generator) -> None:
    """FO: a brick, stone or lump on the invert, or a pipe or cable right through the section."""
    if uniform(generator) < 0.3:
        site.hang(lambda: _bar(site, generator))
    else:
        _lump(site, generator)


def _lump(site: Site, generator: Generator) -> None:
    s = site.severity
    height = 2 * site.world.water_level + 0.12 + 0.3 * s
    length, arc = uniform(generator, 0.15, 0.3) + 0.2 * s, uniform(generator, 0.15, 0.3) + 0.25 * s
    patch = site.patch(half_length=1.8 * length, half_arc=1.8 * arc + 0.1)
    turn = uniform(generator, -0.5, 0.5)
    u = patch.along * math.cos(turn) + patch.around * math.sin(turn)
    v = patch.around * math.cos(turn) - patch.along * math.sin(turn)
    power = pick(generator, (2.0, 6.0))
    distance = ((u / length).abs() ** power + (v / arc).abs() ** power) ** (1 / power)
    inside = soft(1 - distance + 0.06 * patch.noise("medium", generator), 0.10)
    body = inside * height * (1 - 0.15 * distance.clamp(max=1)) * (1 + 0.04 * patch.noise("fine", generator))
    covers = body > patch.relief + 0.02
    patch.relief = torch.where(covers, body, patch.relief)
    tones = [
        (0.36, 0.18, 0.12),
        (0.38, 0.36, 0.32),
        (0.20, 0.18, 0.16),
        (0.45, 0.42, 0.30),
        (0.18, 0.22, 0.24),
    ]
    patch.paint(pick(generator, tones), inside * 0.8)
    patch.shade(1 + 0.15 * inside * patch.noise("fine", generator))
    patch.mark(covers & (inside > 0.4), site.class_index)
    patch.write()


def _grid() -> tuple[Tensor, Tensor]:
    side = (torch.arange(CROSS_SECTION) + 0.5) / CROSS_SECTION * 2 - 1
    return side.view(1, -1), -side.view(-1, 1)  # x to the right, y up


def _bar(site: Site, generator: Generator) -> Tensor:
    """float32 [4, S, S]: a pipe or cable right through the section."""
    x, y = _grid()
    turn = uniform(generator, -0.9, 0.9)
    offset = uniform(generator, -0.55, 0.45)
    across = y * math.cos(turn) - x * math.sin(turn) - offset
    thickness = 0.03 + 0.13 * site.severity * uniform(generator, 0.6, 1.2)
    inside = (across.abs() < thickness) & (x * x + y * y < 1)
    rounding = torch.sqrt((1 - (across / thickness) ** 2).clamp(min=0))
    tone = torch.tensor(pick(generator, [(0.30, 0.27, 0.24), (0.38, 0.22, 0.12), (0.12, 0.12, 0.13), (0.5, 0.36, 0.2)]))
    return torch.cat((tone.view(3, 1, 1) * (0.25 + 0.75 * rounding), inside.float()[None]))


def roots(site: Site, generator: Generator) -> None:
    """RO: roots from a joint: fine ones along the wall and, the graver the more, a beard hanging into the section."""
    s = site.severity
    reach = 0.35 + 0.7 * s
    patch = site.patch(half_length=reach + 0.3, half_arc=min(math.pi, reach + 0.3))
    brown = (0.27, 0.18, 0.10) if uniform(generator) < 0.7 else (0.40, 0.32, 0.22)
    for _ in range(5 + round(14 * s)):
        start = (uniform(generator, -0.05, 0.05), uniform(generator, -0.8, 0.8) * reach * 0.6)
        heading = uniform(generator, 0, 2 * math.pi)
        line = crooked_line(
            generator,
            start=start,
            heading=heading,
            length=reach * uniform(generator, 0.4, 1.0),
            step=0.07,
            wander=0.45,
        )
        gap, progress = distance_to_line(patch, line)
        thick = (0.008 + 0.02 * s * uniform(generator)) * (1 - 0.75 * progress)
        body = (1 - (gap / thick) ** 2).clamp(min=0)
        patch.relief = torch.maximum(patch.relief, patch.relief + body.sqrt() * (thick * 2.5 + 0.01))
        patch.paint(brown, (body > 0).float() * 0.85)
        patch.mark(gap < thick + 0.006, site.class_index)
    patch.write()
    if s > 0.25:
        site.hang(lambda: _beard(site, generator, brown))


def _beard(site: Site, generator: Generator, brown: tuple[float, float, float]) -> Tensor:
    """float32 [4, S, S]: roots that hang into the section, growing inwards and bending down."""
    x, y = _grid()
    alpha = torch.zeros(CROSS_SECTION, CROSS_SECTION)
    light = torch.zeros(CROSS_SECTION, CROSS_SECTION)
    pixels = torch.stack((x.expand_as(alpha), y.expand_as(alpha)))
    for _ in range(8 + round(34 * site.severity)):
        side = uniform(generator, -0.5, 0.5) * (0.3 + 0.7 * site.severity)
        angle = site.theta + side
        start = torch.tensor((math.sin(angle), math.cos(angle)))
        # A root grows into the section and bends down.
        heading = math.atan2(-math.cos(angle), -math.sin(angle)) + uniform(generator, -0.6, 0.6)
        length = (0.2 + 0.9 * site.severity) * uniform(generator, 0.3, 1.0)
        points = [start]
        for _step in range(max(3, round(length / 0.08))):
            heading += uniform(generator, -0.45, 0.45) + 0.12 * math.sin(-math.pi / 2 - heading)
            points.append(points[-1] + 0.08 * torch.tensor((math.cos(heading), math.sin(heading))))
        thickness = uniform(generator, 0.006, 0.012 + 0.012 * site.severity)
        for i in range(len(points) - 1):
            a, b = points[i], points[i + 1]
            d = b - a
            offset = pixels - a.view(2, 1, 1)
            share = ((offset * d.view(2, 1, 1)).sum(0) / d.square().sum()).clamp(0, 1)
            gap = (offset - share * d.view(2, 1, 1)).square().sum(0).sqrt()
            thin = thickness * (1 - 0.7 * i / len(points))
            body = ((thin - gap) / 0.006 + 0.5).clamp(0, 1)
            alpha = torch.maximum(alpha, body)
            light = torch.maximum(light, body * uniform(generator, 0.5, 1.1))
    inside = (pixels.square().sum(0) < 1.02).float()
    return torch.cat((torch.tensor(brown).view(3, 1, 1) * (0.4 + 0.8 * light), (alpha * inside)[None]))


def infiltration(site: Site, generator: Generator) -> None:
    """IN: water comes in: a wet, encrusted run down the wall from a joint or a spot, from half severity a jet."""
    s = site.severity
    patch = site.patch(half_length=0.9, half_arc=math.pi)
    down = ((patch.theta % (2 * math.pi)) - math.pi).abs()  # 0 at the invert, pi at the crown
    start = abs(((site.theta + uniform(generator, -0.2, 0.2)) % (2 * math.pi)) - math.pi)
    same_side = (
        torch.cos(patch.theta - site.theta) > -0.2 if start < 2.6 else torch.ones_like(patch.theta, dtype=torch.bool)
    )
    meander = patch.along - 0.10 * patch.noise("broad", generator)
    width = (0.05 + 0.16 * s) * (0.75 + 0.35 * patch.noise("medium", generator)).clamp(0.2, 1.8)
    running = soft(width - meander.abs(), 0.04) * soft(start - down, 0.15) * same_side
    crust = patch.noise("fine", generator)
    patch.relief = patch.relief + running * (0.02 + 0.05 * s) * (0.6 + 0.6 * crust).clamp(min=0)
    mineral = pick(generator, [(0.52, 0.50, 0.45), (0.42, 0.26, 0.13), (0.35, 0.31, 0.25)])
    patch.paint(mineral, running * (0.35 + 0.25 * crust).clamp(0, 0.8))
    patch.gloss = patch.gloss + 1.2 * running
    patch.mark(running > 0.5, site.class_index)
    patch.write()
    if s > 0.5:
        site.hang(lambda: _jet(site, generator))


def _jet(site: Site, generator: Generator) -> Tensor:
    """float32 [4, S, S]: water that shoots in and falls, as a bundle of parabolas."""
    x, y = _grid()
    start = (math.sin(site.theta), math.cos(site.theta))
    push = uniform(generator, 0.3, 0.9)
    nearest = torch.full((CROSS_SECTION, CROSS_SECTION), 1e9)
    for _ in range(5):
        speed = push * uniform(generator, 0.75, 1.25)
        for k in range(30):
            t = k / 15
            px = start[0] * (1 - speed * t) + 0.02 * t * uniform(generator, -1, 1)
            py = start[1] * (1 - speed * t) - 0.75 * t * t
            spread = 0.012 + 0.02 * t * uniform(generator)
            nearest = torch.minimum(nearest, ((x - px) ** 2 + (y - py) ** 2) / spread**2)
    alpha = 0.7 * torch.exp(-nearest) * (x * x + y * y < 1)
    return torch.cat((torch.full((3, CROSS_SECTION, CROSS_SECTION), 0.55), alpha[None]))


def intruding_sealing(site: Site, generator: Generator) -> None:
    """IS: the sealing ring of a joint hangs into the pipe as a loop, or mortar has squeezed through."""
    s = site.severity
    span = 0.5 + 1.1 * s
    patch = site.patch(half_length=0.6, half_arc=min(math.pi, 1.3 * span))
    sag = torch.cos(patch.around / span * (math.pi / 2)).clamp(min=0) ** 0.8 * (patch.around.abs() < span)
    shift = 0.18 * s * sag * uniform(generator, -1, 1)
    rubber = uniform(generator) < 0.7
    thickness = (0.022 + 0.02 * s) if rubber else 0.05 + 0.03 * s
    ragged = 0.0 if rubber else 0.03
    inside = soft(thickness * sag**0.5 - (patch.along - shift + ragged * patch.noise("medium", generator)).abs(), 0.02)
    height = (0.06 + 0.28 * s) * sag * (1 if rubber else 0.5 + 0.25 * patch.noise("medium", generator).clamp(min=-1))
    patch.relief = patch.relief + inside * height
    patch.paint((0.07, 0.07, 0.07) if rubber and uniform(generator) < 0.6 else (0.40, 0.37, 0.32), inside * 0.85)
    patch.mark((inside > 0.5) & (sag > 0.05), site.class_index)
    patch.write()
