"""From a pipe world to pictures in linear light: rays, relief, shading, water, hanging things.

Shapes: N frames, P = H*W pixels of one frame. Lengths inside this file are pipe radii; distances of poses and the
returned depth are metres. x points right, y up, z along the pipe; angles run clockwise from the crown.

The wall is the surface r = 1 - h(theta, z). A ray is followed from where it enters the shell in which the wall can
lie to where it must have met it; the first step behind the wall is refined by bisection. So whatever stands out of
the wall hides what is behind it, and a hole shows its sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from training.simulator.camera import CameraPose, Light, pixel_rays, rotation
from training.simulator.noise import ROWS_PER_RADIUS, draw_field
from training.simulator.wall import Billboard
from training.simulator.wall_painter import WallPainter
from training.simulator.wall_sampler import WallSampler
from training.simulator.world import PipeWorld

FAR = 14.0  # beyond this the lamps do not reach
BEHIND, AHEAD = 1.5, 7.0  # how much wall a camera can see before and after the block it stands in
BLOCK = 5.0
WINDOWS_KEPT = 8
REFINEMENTS = 3
# Smaller pictures are traced at once; of larger ones a quarter first.
COARSE_FROM = 96
FINE_STEPS = 4
STEPS_PER_RADIUS = 16
RIPPLE_SIDE = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class Rendered:
    """N frames. linear: float32 [N, 3, H, W] in [0, 1], linear light. depth_m: float32 [N, H, W], straight-line
    distance from the lens. classes: uint8 [N, H, W], 0 nothing, else 1 + index into CLASS_CODES.
    """

    linear: Tensor
    depth_m: Tensor
    classes: Tensor


@dataclass(kw_only=True, eq=False)
class _Picture:
    """One frame while it is being drawn: rays, and what each has met so far."""

    origin: Tensor  # [3, 1]
    direction: Tensor  # [3, P]
    light: Light
    reach: Tensor  # [P]
    colour: Tensor  # [3, P]
    classes: Tensor  # [P]

    def lamp(self, dx: Tensor, dy: Tensor, reach: Tensor) -> Tensor:
        """[3, P] light that the ring of lamps throws on points that far away."""
        bright = self.light.asymmetry_clock / 12 * 2 * math.pi
        lateral = (dx * math.sin(bright) + dy * math.cos(bright)) / reach.clamp(min=0.2)
        strength = 1.35 * self.light.gain / (0.55 + (reach * self.light.falloff / 2.2) ** 2)
        strength = strength * (1 + self.light.asymmetry * lateral)
        return strength * torch.tensor(self.light.tint, device=reach.device).view(3, 1)


class Renderer:
    """Draws one pipe. The wall is drawn in windows as the camera gets there; the last few are kept.

    The same world and pose give the same picture, whatever else is in the batch or was drawn before.
    """

    def __init__(self, world: PipeWorld, *, device: str | torch.device = "cpu") -> None:
        self.world = world
        self._device = torch.device(device)
        self._painter = WallPainter(world)
        self._windows: dict[int, tuple[WallSampler, list[Billboard]]] = {}
        generator = Generator().manual_seed(world.seed + 1)
        side = torch.arange(RIPPLE_SIDE)
        swell = torch.stack([draw_field("medium", generator).at(side, side * 2) for _ in range(2)])
        strength = 0.008 + 0.04 * float(torch.rand((), generator=generator)) ** 2
        self._ripple = (swell * strength).to(self._device)
        murk = 0.5 + 0.7 * world.water_murk
        self._water_albedo = torch.tensor((0.17 * murk, 0.145 * murk, 0.095 * murk), device=self._device).view(3, 1)

    def render(self, poses: CameraPose, *, height: int, width: int) -> Rendered:
        """Pictures of `height` by `width` pixels from each pose."""
        camera_rays = pixel_rays(poses.lens, height=height, width=width, device=self._device).view(3, -1)
        turns = rotation(poses).to(self._device)
        shape = (height, width)
        pictures = [self._draw(poses, i, turns[i] @ camera_rays, shape) for i in range(len(poses))]
        return Rendered(
            linear=torch.stack([p.colour.view(3, *shape) for p in pictures]).clamp(0, 1),
            depth_m=torch.stack([p.reach.view(shape) for p in pictures]) * self.world.radius_m,
            classes=torch.stack([p.classes.view(shape) for p in pictures]),
        )

    def _draw(self, poses: CameraPose, index: int, direction: Tensor, shape: tuple[int, int]) -> _Picture:
        z = float(poses.distance_m[index]) / self.world.radius_m
        wall, billboards = self._window(z)
        place = (float(poses.offset_x[index]), float(poses.offset_y[index]), z)
        origin = torch.tensor(place, device=self._device).view(3, 1)
        reach = _trace_finely(wall, origin, direction, shape)
        picture = _shade(wall, origin, direction, reach, poses.light)
        if self.world.water_level > 0:
            self._add_water(picture, wall)
        for billboard in billboards:
            if billboard.z > z:
                _add_billboard(picture, billboard)
        return picture

    def _window(self, z: float) -> tuple[WallSampler, list[Billboard]]:
        block = math.floor(z / BLOCK)
        if block not in self._windows:
            first = math.floor((block * BLOCK - BEHIND) * ROWS_PER_RADIUS)
            last = math.ceil(((block + 1) * BLOCK + AHEAD) * ROWS_PER_RADIUS)
            wall = self._painter.window(first, last)
            billboards = [
                Billboard(z=b.z, rgba=b.rgba.to(self._device), class_index=b.class_index) for b in wall.billboards
            ]
            while len(self._windows) >= WINDOWS_KEPT:
                self._windows.pop(next(iter(self._windows)))
            self._windows[block] = (WallSampler(wall, self._device), billboards)
        return self._windows[block]

    def _add_water(self, picture: _Picture, wall: WallSampler) -> None:
        origin, direction = picture.origin, picture.direction
        level = -1.0 + 2.0 * self.world.water_level
        reach_all = (level - origin[1]) / direction[1].clamp(max=-1e-4)
        wet = ((direction[1] < 0) & (reach_all > 0) & (reach_all < picture.reach)).nonzero()[:, 0]
        if len(wet) == 0:
            return
        ray, reach = direction[:, wet], reach_all[wet]
        x, z = origin[0] + ray[0] * reach, origin[2] + ray[2] * reach
        tilt_x, tilt_z = self._ripples_at(x, z)
        onward = torch.stack((ray[0] + 2 * tilt_x, (-ray[1]).clamp(min=0.02), ray[2] + 2 * tilt_z))
        onward = onward / onward.norm(dim=0)
        start = torch.stack((x, torch.full_like(x, level), z))
        further = cylinder_exit(start, onward, 1.0).clamp(max=FAR)
        there = start + onward * further
        seen = wall.surface(there, reach + further)[:3]
        mirrored = seen * picture.lamp(there[0] - origin[0], there[1] - origin[1], reach + further) * 0.75
        steep = (-ray[1]).clamp(0, 1)
        mirror = 0.06 + 0.7 * (1 - steep) ** 3
        lamp = picture.lamp(x - origin[0], level - origin[1], reach)
        glint = (steep + 3 * tilt_z + 3 * tilt_x).clamp(0, 1) ** 20 * 0.35
        shaded = self._water_albedo * lamp * (0.35 + 0.65 * steep) * (1 - mirror) + mirrored * mirror + glint * lamp
        picture.colour[:, wet] = shaded
        picture.classes[wet] = 0
        picture.reach[wet] = reach

    def _ripples_at(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes [P] of the water surface across and along the pipe, at points of it."""
        across, along = x, (z / 2.5).remainder(2.0) - 1
        grid = torch.stack((across, along), dim=-1).view(1, 1, -1, 2)
        slopes = F.grid_sample(self._ripple[None], grid, align_corners=False, padding_mode="reflection")[0, :, 0]
        return slopes[0], slopes[1]


def _shade(wall: WallSampler, origin: Tensor, direction: Tensor, reach: Tensor, light: Light) -> _Picture:
    point = origin + direction * reach
    surface = wall.surface(point, reach)
    r = torch.hypot(point[0], point[1]).clamp(min=1e-3)
    sin, cos = point[0] / r, point[1] / r
    # The inward normal of r = 1 - h(theta, z): minus the gradient of h + r, in cylinder axes.
    around, along, openness = surface[4] / r, surface[5], surface[6]
    normal = torch.stack((-sin - around * cos, -cos + around * sin, -along))
    facing = -(normal * direction).sum(0) * torch.rsqrt(1 + around**2 + along**2)
    facing = facing.clamp(min=0.0)
    # Light that has been around the pipe once reaches what the lamps do not.
    diffuse = openness * (0.82 * facing + 0.18)
    highlight = surface[3].clamp(0.0, 1.6) * facing**20 * 0.4
    picture = _Picture(
        origin=origin,
        direction=direction,
        light=light,
        reach=reach,
        colour=surface[:3],
        classes=wall.classes(point),
    )
    lamp = picture.lamp(point[0] - origin[0], point[1] - origin[1], reach)
    picture.colour = (surface[:3] * diffuse + highlight) * lamp
    return picture


def _add_billboard(picture: _Picture, billboard: Billboard) -> None:
    origin, direction = picture.origin, picture.direction
    reach = (billboard.z - origin[2]) / direction[2].clamp(min=1e-3)
    x, y = origin[0] + direction[0] * reach, origin[1] + direction[1] * reach
    hit = ((direction[2] > 0) & (reach > 0.2) & (reach < picture.reach) & (x.abs() < 1) & (y.abs() < 1)).nonzero()[:, 0]
    if len(hit) == 0:
        return
    x, y, reach = x[hit], y[hit], reach[hit]
    grid = torch.stack((x, -y), dim=-1).view(1, 1, -1, 2)
    rgba = F.grid_sample(billboard.rgba[None], grid, align_corners=False)[0, :, 0]
    lit = rgba[:3] * picture.lamp(x - origin[0], y - origin[1], reach) * 0.9
    picture.colour[:, hit] = torch.lerp(picture.colour[:, hit], lit, rgba[3])
    solid = hit[rgba[3] > 0.4]
    picture.classes[solid] = billboard.class_index
    picture.reach[solid] = reach[rgba[3] > 0.4]


def _trace_finely(wall: WallSampler, origin: Tensor, direction: Tensor, shape: tuple[int, int]) -> Tensor:
    """[P] distance along each ray to the wall: every second ray of every second line the whole way, then all of them
    within what their neighbours found."""
    far = cylinder_exit(origin, direction, wall.outer).clamp(max=FAR)
    near = _shell_entry(origin, direction, wall.inner).clamp(max=FAR)
    steps = 4 + math.ceil(STEPS_PER_RADIUS * (wall.outer - wall.inner))
    if min(shape) < COARSE_FROM:
        return _trace(wall, origin, direction, near, far, steps)
    coarse = direction.view(3, *shape)[:, ::2, ::2]
    part = coarse.shape[1:]
    first, last = (bound.view(shape)[::2, ::2].reshape(-1) for bound in (near, far))
    found = _trace(wall, origin, coarse.reshape(3, -1), first, last, steps).view(1, 1, *part)
    longest = F.max_pool2d(found, 3, stride=1, padding=1)
    shortest = -F.max_pool2d(-found, 3, stride=1, padding=1)
    low, high = (F.interpolate(b, size=shape, mode="nearest")[0, 0].reshape(-1) for b in (shortest, longest))
    low = torch.maximum(near, 0.96 * low - 0.03)
    high = torch.minimum(far, 1.04 * high + 0.03)
    return _trace(wall, origin, direction, torch.minimum(low, far), torch.maximum(high, low), FINE_STEPS)


def _trace(wall: WallSampler, origin: Tensor, direction: Tensor, near: Tensor, far: Tensor, steps: int) -> Tensor:
    """[P] distance between `near` and `far` at which each ray first lies behind the wall; `far` where it never does."""
    found = torch.zeros_like(near, dtype=torch.bool)
    low, high = near, far
    for step in range(1, steps + 1):
        reach = torch.lerp(near, far, step / steps)
        behind = wall.is_behind(origin + direction * reach) & ~found
        high = torch.where(behind, reach, high)
        found |= behind
        low = torch.where(found, low, reach)
    for _ in range(REFINEMENTS):
        middle = 0.5 * (low + high)
        behind = wall.is_behind(origin + direction * middle)
        high, low = torch.where(behind, middle, high), torch.where(behind, low, middle)
    return 0.5 * (low + high)


def cylinder_exit(origin: Tensor, direction: Tensor, radius: float) -> Tensor:
    """[P] distance at which rays that start inside the cylinder of `radius` about the z axis leave it."""
    a = (direction[0] ** 2 + direction[1] ** 2).clamp(min=1e-7)
    b = origin[0] * direction[0] + origin[1] * direction[1]
    c = origin[0] ** 2 + origin[1] ** 2 - radius * radius
    return (torch.sqrt((b * b - a * c).clamp(min=0.0)) - b) / a


def _shell_entry(origin: Tensor, direction: Tensor, inner: float) -> Tensor:
    """[P] distance from which on the wall can be met: leaving the inner cylinder, or 0 when starting outside it."""
    if float(torch.hypot(origin[0], origin[1])) >= inner:
        return torch.zeros_like(direction[0])
    return cylinder_exit(origin, direction, inner)
