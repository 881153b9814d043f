from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from training.data.classes import CLASS_CODES
from training.simulator.camera import CameraPose
from training.simulator.render import Renderer
from training.simulator.world import PipeWorld, draw_world

SIZE = 96


def _approach(world: PipeWorld) -> CameraPose:
    """Views of the only defect from two to eight radii before its start."""
    start = world.defects[0].distance_m
    return CameraPose.at([max(start - radii * world.radius_m, 0.05) for radii in (2.0, 4.0, 8.0)])


@pytest.mark.parametrize("code", CLASS_CODES)
def test_each_class_is_seen_is_named_and_changes_the_picture(code: str) -> None:
    faulty = replace(draw_world(21, length_m=8.0, codes=[(code,)], material="concrete", severity=0.8), water_level=0.0)
    poses = _approach(faulty)
    seen = Renderer(faulty).render(poses, height=SIZE, width=SIZE)
    marked = seen.classes == CLASS_CODES.index(code) + 1
    assert set(seen.classes.unique().tolist()) <= {0, CLASS_CODES.index(code) + 1}
    assert marked.float().mean(dim=(1, 2)).max() > 0.004
    clean = Renderer(replace(faulty, defects=())).render(poses, height=SIZE, width=SIZE)
    change = (seen.linear - clean.linear).abs().mean(dim=1)
    # A class map that claims pixels where nothing changed would be a false truth.
    assert change[marked].mean() > 2 * change[~marked].mean()


@pytest.mark.parametrize("material", ["concrete", "pvc", "brick"])
def test_a_clean_world_has_an_empty_class_map(material: str) -> None:
    world = draw_world(31, length_m=8.0, material=material)
    seen = Renderer(world).render(CameraPose.at([1.0, 4.0]), height=SIZE, width=SIZE)
    assert not seen.classes.any()


def test_what_is_under_water_is_not_marked() -> None:
    world = draw_world(41, length_m=8.0, codes=[("FO",)], material="concrete", severity=0.1)
    # The lens stands high, or it would itself be under the deep water.
    poses = replace(_approach(world), offset_y=torch.full((3,), 0.45))
    dry = Renderer(replace(world, water_level=0.0)).render(poses, height=SIZE, width=SIZE)
    deep = Renderer(replace(world, water_level=0.45)).render(poses, height=SIZE, width=SIZE)
    assert deep.classes.count_nonzero() < 0.5 * dry.classes.count_nonzero()


def test_an_obstacle_hides_what_is_behind_it() -> None:
    world = replace(draw_world(43, length_m=8.0, codes=[("FO",)], material="concrete", severity=1.0), water_level=0.0)
    poses = _approach(world)
    seen = Renderer(world).render(poses, height=SIZE, width=SIZE)
    clean = Renderer(replace(world, defects=())).render(poses, height=SIZE, width=SIZE)
    marked = seen.classes > 0
    nearer = seen.depth_m[marked] < clean.depth_m[marked] - 1e-4
    assert nearer.float().mean() > 0.5
    untouched = (seen.depth_m - clean.depth_m).abs() < 1e-3
    assert untouched[~marked].float().mean() > 0.8
    assert torch.isfinite(seen.depth_m).all()
