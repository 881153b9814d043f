"""Motion: inside the pipe, at the speeds of a crawler, with stops and turns."""

from __future__ import annotations

import numpy as np

from training.simulator.crawl import SPEED_M_S, draw_crawl, draw_lens, draw_light, draw_mount, poses_of_crawl, stills
from training.simulator.world import draw_world

WORLD = draw_world(4, length_m=12.0, codes=[["GR"], ["RB"]])


def test_a_crawl_moves_at_a_crawlers_speed_and_stops() -> None:
    crawl = draw_crawl(WORLD, np.random.default_rng(2), duration_s=120, step_s=0.2)
    steps = np.diff(crawl.distance_m)
    assert len(crawl.distance_m) == 600
    assert np.abs(steps).max() <= SPEED_M_S[1] * 0.2 + 1e-9
    assert (steps == 0).any()
    assert crawl.distance_m.min() >= 0.1
    assert crawl.distance_m.max() <= WORLD.length_m
    assert np.abs(np.diff(crawl.pan)).max() < 0.8


def test_the_same_generator_gives_the_same_crawl() -> None:
    a, b = (draw_crawl(WORLD, np.random.default_rng(9), duration_s=20, step_s=0.2) for _ in range(2))
    assert np.array_equal(a.distance_m, b.distance_m)
    assert np.array_equal(a.pan, b.pan)


def test_poses_stay_above_the_water_and_inside_the_pipe() -> None:
    rng = np.random.default_rng(0)
    mount, lens, light = draw_mount(rng, WORLD), draw_lens(rng, profile="standard"), draw_light(rng, profile="standard")
    crawl = draw_crawl(WORLD, rng, duration_s=10, step_s=0.2)
    for poses in (
        poses_of_crawl(crawl, WORLD, mount, lens, light),
        stills(WORLD, np.linspace(1, 9, 40), mount, lens, light, rng),
    ):
        assert float(poses.offset_y.min()) >= -1 + 2 * WORLD.water_level
        assert float((poses.offset_x**2 + poses.offset_y**2).max()) < 0.81
