"""Looks a window of the wall up at points in space: heights quickly, surfaces from a coarser copy where it is far.

Shapes: P points, float32 [3, P] in pipe radii.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.simulator.noise import COLUMNS, ROWS_PER_RADIUS
from training.simulator.wall import Wall

# The surroundings that shade a texel: this many cells of this many texels to each side.
CAVITY_REACH, CAVITY_SCALE = 2, 5
# From these distances (radii) on, the wall is looked up in the copy that is 2 and 4 times coarser.
COARSER_FROM = (2.2, 5.0)


class WallSampler:
    """A window of the wall, laid out for look-ups: eight values of a texel lie side by side."""

    def __init__(self, wall: Wall, device: torch.device) -> None:
        relief = wall.relief.to(device)
        self._first_row, self._rows = wall.first_row, wall.rows
        self._radius2 = (1.0 - relief).square_().reshape(-1)
        self._classes = wall.classes.to(device).reshape(-1)
        self.inner = max(0.05, 1.0 - float(relief.max()) - 0.005)
        self.outer = 1.0 - float(relief.min()) + 0.005
        maps = torch.cat((wall.albedo.to(device), wall.gloss.to(device)[None], _slopes(relief), _openness(relief)))
        # An eighth, unused value keeps each texel within one cache line.
        maps = torch.cat((maps, torch.zeros_like(maps[:1])))
        maps = maps.permute(1, 2, 0).contiguous()
        self._levels = [(maps, 1)]
        for factor in (2, 4):
            maps = _halved(maps)
            self._levels.append((maps, factor))

    def is_behind(self, point: Tensor) -> Tensor:
        """Bool [P]: the point lies behind the surface of the wall."""
        index = self._index(point)
        r2 = (point[0] * point[0]).add_(point[1] * point[1])
        return r2 >= self._radius2[index]

    def classes(self, point: Tensor) -> Tensor:
        """uint8 [P]: the class of the texel at each point."""
        return self._classes[self._index(point)]

    def surface(self, point: Tensor, reach: Tensor) -> Tensor:
        """float32 [7, P]: albedo RGB, gloss, slope around, slope along, openness; bilinear, coarser with `reach`."""
        column = torch.atan2(point[0], point[1]) * (COLUMNS / (2 * math.pi))
        row = point[2] * ROWS_PER_RADIUS - self._first_row
        result = torch.empty(len(reach), 8, device=reach.device)
        level = (reach > COARSER_FROM[0]).to(torch.int8) + (reach > COARSER_FROM[1]).to(torch.int8)
        for k, (maps, factor) in enumerate(self._levels):
            chosen = (level == k).nonzero()[:, 0]
            if len(chosen):
                result[chosen] = _bilinear(maps, row[chosen] / factor, column[chosen] / factor)
        return result.T[:7]

    def _index(self, point: Tensor) -> Tensor:
        # Angles run from -pi to pi; COLUMNS is a power of two, so the mask is a remainder.
        angle = torch.atan2(point[0], point[1])
        column = angle.mul_(COLUMNS / (2 * math.pi)).add_(COLUMNS).to(torch.int32).bitwise_and_(COLUMNS - 1)
        row = (point[2] * ROWS_PER_RADIUS).sub_(self._first_row).to(torch.int32).clamp_(0, self._rows - 1)
        return row.mul_(COLUMNS).add_(column)


def _bilinear(maps: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """[P, 8] from maps [Z, T, 8] at fractional texels; columns wrap around, rows end at the border."""
    rows, columns, _ = maps.shape
    flat = maps.view(rows * columns, 8)
    row, column = row - 0.5, column - 0.5
    r0, c0 = row.floor(), column.floor()
    fr, fc = (row - r0).unsqueeze(1), (column - c0).unsqueeze(1)
    r0, c0 = r0.to(torch.int32), c0.to(torch.int32)
    upper, lower = r0.clamp(0, rows - 1) * columns, (r0 + 1).clamp(0, rows - 1) * columns
    left, right = c0 % columns, (c0 + 1) % columns
    top = flat[upper + left].lerp_(flat[upper + right], fc)
    bottom = flat[lower + left].lerp_(flat[lower + right], fc)
    return top.lerp_(bottom, fr)


def _halved(maps: Tensor) -> Tensor:
    """[Z // 2, T // 2, 8] means of two by two texels."""
    even = maps[: maps.shape[0] // 2 * 2]
    rows = even[0::2] + even[1::2]
    return (rows[:, 0::2] + rows[:, 1::2]).mul_(0.25)


def _slopes(relief: Tensor) -> Tensor:
    """[2, Z, T] slopes of the relief around and along, in radii a radius."""
    around = (torch.roll(relief, -1, 1) - torch.roll(relief, 1, 1)) * (COLUMNS / (4 * math.pi))
    along = torch.zeros_like(relief)
    along[1:-1] = (relief[2:] - relief[:-2]) * (ROWS_PER_RADIUS / 2)
    return torch.stack((around, along))


def _openness(relief: Tensor) -> Tensor:
    """[1, Z, T] share of the light that reaches a texel past its surroundings: less in grooves and holes."""
    small = F.avg_pool2d(relief[None, None], CAVITY_SCALE)
    ringed = torch.cat((small[..., -CAVITY_REACH:], small, small[..., :CAVITY_REACH]), dim=3)
    side = 2 * CAVITY_REACH + 1
    mean = F.avg_pool2d(ringed, side, stride=1, padding=(CAVITY_REACH, 0), count_include_pad=False)
    around = F.interpolate(mean, size=relief.shape, mode="bilinear", align_corners=False)[0]
    return torch.exp(-7.0 * (around - relief).clamp(min=0.0))
