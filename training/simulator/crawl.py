"""How the camera moves: poses for frame data sets, and the crawl of an inspection with its stops and turns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.simulator.camera import CameraPose, Lens, Light
from training.simulator.world import PipeWorld

LENSES: dict[str, dict[str, tuple[float, float]]] = {
    "standard": {"fov_rad": (1.35, 1.85), "k1": (-0.12, 0.0), "k2": (0.0, 0.02)},
    "shifted": {"fov_rad": (1.9, 2.15), "k1": (-0.20, -0.12), "k2": (0.0, 0.03)},
}
LIGHTS: dict[str, dict[str, tuple[float, float]]] = {
    "standard": {"gain": (0.8, 1.25), "falloff": (0.7, 1.3), "asymmetry": (0.0, 0.3), "warmth": (-0.08, 0.14)},
    "shifted": {"gain": (0.7, 1.4), "falloff": (1.3, 1.9), "asymmetry": (0.3, 0.55), "warmth": (0.16, 0.3)},
}
SPEED_M_S = (0.08, 0.2)
LOOK_TIME_S = (2.0, 5.0)


def draw_lens(rng: np.random.Generator, *, profile: str) -> Lens:
    """The lens of an inspection system."""
    return Lens(**{name: float(rng.uniform(*span)) for name, span in LENSES[profile].items()})


def draw_light(rng: np.random.Generator, *, profile: str) -> Light:
    """The ring of lamps of an inspection system."""
    spans = LIGHTS[profile]
    warmth = float(rng.uniform(*spans["warmth"]))
    return Light(
        gain=float(rng.uniform(*spans["gain"])),
        falloff=float(rng.uniform(*spans["falloff"])),
        asymmetry=float(rng.uniform(*spans["asymmetry"])),
        asymmetry_clock=float(rng.uniform(0, 12)),
        tint=(1 + warmth, 1.0, 1 - warmth),
    )


@dataclass(frozen=True, kw_only=True)
class Mount:
    """Where the camera sits on its crawler: its resting offset from the axis, as shares of the radius."""

    x: float
    y: float


def draw_mount(rng: np.random.Generator, world: PipeWorld) -> Mount:
    """A mount that keeps the camera out of the water."""
    lowest = -1 + 2 * world.water_level + 0.25
    return Mount(x=float(rng.normal(0, 0.06)), y=max(lowest, float(rng.normal(-0.05, 0.12))))


def stills(
    world: PipeWorld, distances_m: NDArray[np.float64], mount: Mount, lens: Lens, light: Light, rng: np.random.Generator
) -> CameraPose:
    """One pose a distance, as single frames of an inspection have them: mostly ahead, now and then turned aside."""
    count = len(distances_m)
    turned = rng.random(count) < 0.25
    pan = rng.normal(0, 0.07, count) + turned * rng.normal(0, 0.45, count)
    tilt = rng.normal(0, 0.05, count) + turned * rng.normal(0, 0.25, count)
    lowest = -1 + 2 * world.water_level + 0.15
    return CameraPose.at(
        list(distances_m),
        offset_x=list(np.clip(mount.x + rng.normal(0, 0.03, count), -0.5, 0.5)),
        offset_y=list(np.clip(mount.y + rng.normal(0, 0.03, count), lowest, 0.5)),
        pan=list(np.clip(pan, -0.9, 0.9)),
        tilt=list(np.clip(tilt, -0.6, 0.6)),
        roll=list(rng.normal(0, 0.05, count)),
        lens=lens,
        light=light,
    )


@dataclass(frozen=True, kw_only=True)
class Crawl:
    """An inspection's motion: arrays of one value a time step of `step_s` seconds."""

    step_s: float
    distance_m: NDArray[np.float64]
    pan: NDArray[np.float64]
    tilt: NDArray[np.float64]
    sway: NDArray[np.float64]


def draw_crawl(world: PipeWorld, rng: np.random.Generator, *, duration_s: float, step_s: float) -> Crawl:
    """A crawl of `duration_s`: steady travel, stops with a look around before defects and elsewhere, and, now and then,
    a short way back. Ends where the time is over or the pipe is."""
    steps = round(duration_s / step_s)
    distance, pan, tilt = np.zeros(steps), np.zeros(steps), np.zeros(steps)
    speed = float(rng.uniform(*SPEED_M_S))
    end_m = world.length_m - 6 * world.radius_m
    stops = _stops(world, rng, end_m)
    position, direction = 0.3, 1.0
    looking_left, reverse_left, aim = 0.0, 0.0, (0.0, 0.0)
    for i in range(steps):
        if looking_left > 0:
            looking_left -= step_s
            if looking_left <= 0 and rng.random() < 0.25:
                reverse_left = float(rng.uniform(0.5, 1.5))
        elif reverse_left > 0:
            reverse_left -= step_s
            direction = -1.0
        else:
            direction = 1.0
            if stops and position >= stops[0]:
                stops.pop(0)
                looking_left = float(rng.uniform(*LOOK_TIME_S))
                aim = (float(rng.normal(0, 0.4)), float(rng.normal(0, 0.2)))
        if looking_left <= 0:
            position = float(np.clip(position + direction * speed * step_s, 0.1, end_m))
        goal = aim if looking_left > 0 else (0.0, 0.0)
        previous = (pan[i - 1], tilt[i - 1]) if i else (0.0, 0.0)
        ease = min(1.0, 2.5 * step_s)
        distance[i] = position
        pan[i] = previous[0] + ease * (goal[0] - previous[0])
        tilt[i] = previous[1] + ease * (goal[1] - previous[1])
    sway = 0.03 * np.sin(np.arange(steps) * step_s * 1.3 + float(rng.uniform(0, 6)))
    return Crawl(step_s=step_s, distance_m=distance, pan=pan, tilt=tilt, sway=sway)


def _stops(world: PipeWorld, rng: np.random.Generator, end_m: float) -> list[float]:
    """Where the inspector stops: a little before most defects, and at some places where there is nothing."""
    before = 2.5 * world.radius_m
    seen = [d.distance_m - before for d in world.defects if rng.random() < 0.7]
    nothing = list(rng.uniform(0.5, end_m, int(rng.poisson(1.0))))
    return sorted(float(s) for s in (*seen, *nothing) if 0.3 < s < end_m)


def poses_of_crawl(crawl: Crawl, world: PipeWorld, mount: Mount, lens: Lens, light: Light) -> CameraPose:
    """One pose a time step."""
    count = len(crawl.distance_m)
    lowest = -1 + 2 * world.water_level + 0.15
    return CameraPose.at(
        list(crawl.distance_m),
        offset_x=list(np.clip(mount.x + crawl.sway, -0.5, 0.5)),
        offset_y=[max(lowest, mount.y)] * count,
        pan=list(crawl.pan),
        tilt=list(crawl.tilt),
        roll=list(0.6 * crawl.sway),
        lens=lens,
        light=light,
    )
