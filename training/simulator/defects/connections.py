"""Where other pipes come in: GR branch pipes and the connections PH, PB, OS, OP, OK."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from training.simulator.defects.patch import Patch, soft
from training.simulator.defects.site import Site
from training.simulator.noise import pick, uniform

HOLE_DEPTH = 0.9


def _opening(site: Site, size: float, generator: Generator, *, ragged: float) -> tuple[Patch, Tensor, Tensor]:
    """The patch around an opening of radius `size`, the signed distance inside its outline, and the opening [0, 1]."""
    patch = site.patch(half_length=size * 1.9 + 0.1, half_arc=size * 1.9 + 0.1)
    squash = uniform(generator, 0.85, 1.15)
    distance = torch.sqrt((patch.along / squash) ** 2 + (patch.around * squash) ** 2)
    signed = size - distance
    if ragged:
        signed = signed + ragged * size * patch.noise("fine", generator)
    return patch, signed, soft(signed, 0.03)


def _bore(patch: Patch, signed: Tensor, inside: Tensor, generator: Generator) -> None:
    """Open the wall: a tube that goes outward, lit at its near rim and dark behind."""
    patch.relief = patch.relief * (1 - inside) - inside * HOLE_DEPTH
    tone = uniform(generator, 0.15, 0.35)
    patch.paint((tone, 0.85 * tone, 0.7 * tone), inside * 0.8)
    patch.shade(1 - 0.93 * soft(signed - 0.01, 0.05))
    patch.gloss = patch.gloss * (1 - inside)


def _size(site: Site) -> float:
    return 0.22 + 0.26 * site.severity


def branch_pipe(site: Site, generator: Generator) -> None:
    """GR: a factory-made branch: round, with a neat collar."""
    size = _size(site)
    patch, signed, inside = _opening(site, size, generator, ragged=0.0)
    collar = soft(0.06 - (signed + 0.05).abs(), 0.03)
    patch.relief = patch.relief + 0.012 * collar
    patch.shade(1 - 0.35 * soft(0.015 - (signed + 0.10).abs(), 0.02))
    _bore(patch, signed, inside, generator)
    patch.mark(signed > -0.08, site.class_index)
    patch.write()


def chiselled_connection(site: Site, generator: Generator) -> None:
    """PH: a hole knocked into the wall, its edge broken."""
    size = _size(site)
    patch, signed, inside = _opening(site, size, generator, ragged=0.28)
    broken = soft(signed + 0.14 + 0.04 * patch.noise("fine", generator), 0.06)
    patch.relief = patch.relief - 0.05 * broken * (0.7 + 0.5 * patch.noise("fine", generator))
    patch.shade(1 + 0.25 * broken * patch.noise("fine", generator))
    _bore(patch, signed, inside, generator)
    patch.mark(broken > 0.5, site.class_index)
    patch.write()


def drilled_connection(site: Site, generator: Generator) -> None:
    """PB: a clean cored hole; the graver, the further the lateral pipe stands into the main."""
    size = _size(site)
    patch, signed, inside = _opening(site, size, generator, ragged=0.0)
    _bore(patch, signed, inside, generator)
    ring = soft(0.035 - (signed - 0.02).abs(), 0.02)
    patch.relief = torch.lerp(patch.relief, torch.full(patch.shape, 0.03 + 0.30 * site.severity), ring)
    tone = pick(generator, [(0.42, 0.26, 0.15), (0.36, 0.36, 0.36), (0.30, 0.18, 0.12)])
    patch.paint(tone, ring * 0.9)
    patch.mark((signed > -0.04) | (ring > 0.4), site.class_index)
    patch.write()


def reinstatement_cut(site: Site, generator: Generator) -> None:
    """OS: the liner over a lateral cut open badly: a ragged opening, a flap left standing, a kerf beside it."""
    size = _size(site)
    patch, signed, inside = _opening(site, size, generator, ragged=0.14)
    side = uniform(generator, 0, 2 * math.pi)
    lean = patch.along * math.cos(side) + patch.around * math.sin(side)
    flap = inside * soft(lean - size * uniform(generator, -0.2, 0.5), 0.04)
    bored = inside * (1 - flap)
    albedo, gloss = patch.albedo.clone(), patch.gloss.clone()
    _bore(patch, signed, bored, generator)
    patch.albedo = torch.where(flap > 0.5, albedo, patch.albedo)
    patch.gloss = torch.where(flap > 0.5, gloss, patch.gloss)
    patch.relief = patch.relief + flap * (0.03 + 0.10 * site.severity)
    edge = soft(0.02 - (signed + 0.01).abs(), 0.02)
    patch.paint((0.6, 0.58, 0.5), edge * 0.7)
    patch.mark(signed > -0.05, site.class_index)
    patch.write()


def transition_profile(site: Site, generator: Generator) -> None:
    """OP: a connection through a transition piece: a stepped saddle around the opening."""
    size = _size(site)
    patch, signed, inside = _opening(site, size, generator, ragged=0.0)
    saddle = soft(signed + 0.24, 0.03)
    inner = soft(signed + 0.12, 0.03)
    patch.relief = patch.relief + 0.035 * saddle + 0.035 * inner
    tone = uniform(generator, 0.8, 1.25)
    patch.shade(1 - saddle * (1 - tone))
    _bore(patch, signed, inside, generator)
    patch.mark(saddle > 0.5, site.class_index)
    patch.write()


def construction_change(site: Site, generator: Generator) -> None:
    """OK: the connection is rebuilt: a square of new mortar or a collar of another material around the opening."""
    size = _size(site)
    patch, signed, inside = _opening(site, size, generator, ragged=0.06)
    reach = size * uniform(generator, 1.35, 1.7)
    square = torch.maximum(patch.along.abs().expand(patch.shape), patch.around.abs().expand(patch.shape))
    plate = soft(reach - square + 0.04 * patch.noise("medium", generator), 0.04)
    trowel = patch.noise("fine", generator)
    patch.relief = patch.relief + plate * (0.02 + 0.015 * trowel)
    tone = uniform(generator, 0.75, 1.2)
    patch.paint((0.42 * tone, 0.40 * tone, 0.36 * tone), plate * 0.7)
    patch.shade(1 + 0.12 * plate * trowel)
    _bore(patch, signed, inside, generator)
    patch.mark((plate > 0.5) | (signed > 0), site.class_index)
    patch.write()
