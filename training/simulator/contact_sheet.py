"""Sheets of simulated frames to look at: is that a sewer, and is the defect what its label says?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.data.classes import CLASS_CODES, CLASS_NAMES
from training.simulator.camera import CameraPose
from training.simulator.crawl import draw_lens, draw_light, draw_mount
from training.simulator.frames import FRAMES_PER_PIPE, FramesConfig, draw_pipe, plan_pipes
from training.simulator.imaging import code, draw_sensor, expose, to_bytes
from training.simulator.render import Renderer
from training.simulator.world import draw_world

TILE, GAP, CAPTION = 192, 4, 18
SEVERITIES = (0.15, 0.4, 0.6, 0.8, 1.0)


def random_sheet(path: Path, *, rows: int, columns: int, seed: int, profile: str) -> None:
    """A grid of frames as a data set has them, two from each pipe, captioned with their classes."""
    tiles = []
    config = FramesConfig(train=-(-rows * columns // 2) * FRAMES_PER_PIPE, val=0, size=TILE, seed=seed, profile=profile)
    for task in plan_pipes(config, "train"):
        for frame in draw_pipe(replace(task, defect_frames=1, normal_frames=1)):
            tiles.append((frame.picture, " ".join(frame.shows) or "normal"))
        if len(tiles) >= rows * columns:
            break
    _write(path, tiles[: rows * columns], columns)


def class_sheet(path: Path, *, seed: int, profile: str) -> None:
    """One row a class, severity rising from left to right, in dry pipes."""
    tiles = [
        (_portrait(code_, severity, seed + 100 * k + i, profile), f"{code_} {severity:g} {CLASS_NAMES[code_]}")
        for k, code_ in enumerate(CLASS_CODES)
        for i, severity in enumerate(SEVERITIES)
    ]
    _write(path, tiles, len(SEVERITIES))


def _portrait(code_: str, severity: float, seed: int, profile: str) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    world = draw_world(seed, profile=profile, length_m=5.0, codes=[[code_]], severity=severity)  # type: ignore[arg-type]  # the command line offers the profiles there are
    world = replace(world, water_level=0.0)
    mount, lens = draw_mount(rng, world), draw_lens(rng, profile=profile)
    light, sensor = draw_light(rng, profile=profile), draw_sensor(rng, profile=profile)
    before_m = max(0.1, world.defects[0].distance_m - 1.8 * world.radius_m)
    poses = CameraPose.at([before_m], offset_x=mount.x, offset_y=mount.y, lens=lens, light=light)
    rendered = Renderer(world).render(poses, height=TILE, width=TILE)
    return code(to_bytes(expose(rendered, sensor, [seed]))[0], sensor)


def _write(path: Path, tiles: list[tuple[NDArray[np.uint8], str]], columns: int) -> None:
    rows = -(-len(tiles) // columns)
    width, height = columns * (TILE + GAP) + GAP, rows * (TILE + CAPTION + GAP) + GAP
    sheet = Image.new("RGB", (width, height), (24, 24, 24))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, (picture, caption) in enumerate(tiles):
        x, y = GAP + i % columns * (TILE + GAP), GAP + i // columns * (TILE + CAPTION + GAP)
        sheet.paste(Image.fromarray(picture), (x, y))
        draw.text((x + 2, y + TILE + 1), caption[:32], font=font, fill=(225, 225, 225))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=88)
