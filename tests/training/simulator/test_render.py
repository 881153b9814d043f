from __future__ import annotations

from dataclasses import replace

import torch

from training.simulator.camera import CameraPose
from training.simulator.render import Renderer
from training.simulator.world import draw_world

SIZE = 64


def test_rendering_is_deterministic_in_shape_range_and_bytes() -> None:
    world = draw_world(1, length_m=8.0, codes=[("RB",)])
    poses = CameraPose.at([1.0, 3.0], offset_x=[0.0, 0.1])
    first = Renderer(world).render(poses, height=48, width=SIZE)
    again = Renderer(world).render(poses, height=48, width=SIZE)
    assert first.linear.shape == (2, 3, 48, SIZE)
    assert first.linear.dtype == first.depth_m.dtype == torch.float32
    assert first.classes.dtype == torch.uint8
    assert 0 <= first.linear.min() <= first.linear.max() <= 1
    for name in ("linear", "depth_m", "classes"):
        assert torch.equal(getattr(first, name), getattr(again, name))


def test_a_frame_does_not_depend_on_the_batch_or_on_what_was_rendered_before() -> None:
    world = draw_world(2, length_m=10.0, codes=[("AF",), ("RO",)])
    poses = CameraPose.at([1.0, 3.0, 5.0], pan=[0.0, 0.1, -0.1])
    together = Renderer(world).render(poses, height=SIZE, width=SIZE)
    renderer = Renderer(world)
    for index in (2, 0, 1):
        alone = renderer.render(poses.select(slice(index, index + 1)), height=SIZE, width=SIZE)
        assert torch.equal(alone.linear[0], together.linear[index])
        assert torch.equal(alone.depth_m[0], together.depth_m[index])
        assert torch.equal(alone.classes[0], together.classes[index])


def test_global_random_state_is_neither_used_nor_touched() -> None:
    world = draw_world(3, length_m=6.0, codes=[("BE",)])
    poses = CameraPose.at([1.0])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = Renderer(world).render(poses, height=SIZE, width=SIZE)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(Renderer(world).render(poses, height=SIZE, width=SIZE).linear, first.linear)


def test_depth_grows_toward_the_vanishing_point() -> None:
    world = replace(draw_world(4, length_m=30.0), water_level=0.0, decor=())
    depth = Renderer(world).render(CameraPose.at([2.0]), height=SIZE, width=SIZE).depth_m[0]
    middle = depth[SIZE // 2 - 2 : SIZE // 2 + 2, SIZE // 2 - 2 : SIZE // 2 + 2].mean()
    half_way = depth[SIZE // 4, SIZE // 2]
    rim = depth[1, SIZE // 2]
    assert middle > 3 * half_way > 3 * rim
    assert rim > 0.5 * world.radius_m


def test_water_covers_the_invert_and_nothing_above_it() -> None:
    dry = replace(draw_world(5, length_m=12.0), water_level=0.0, decor=())
    poses = CameraPose.at([2.0])
    without = Renderer(dry).render(poses, height=SIZE, width=SIZE).depth_m[0]
    under = Renderer(replace(dry, water_level=0.3)).render(poses, height=SIZE, width=SIZE).depth_m[0]
    assert (under[-4:, SIZE // 2] < 0.9 * without[-4:, SIZE // 2]).all()
    assert torch.equal(under[: SIZE // 2 - 4], without[: SIZE // 2 - 4])
