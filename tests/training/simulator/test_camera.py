from __future__ import annotations

import math

import pytest
import torch

from serving.errors import ConfigError
from training.simulator.camera import CameraPose, Lens, Light, pixel_rays, rotation


def test_rays_are_unit_symmetric_and_span_the_field_of_view() -> None:
    rays = pixel_rays(Lens(fov_rad=math.radians(90.0), k1=0.0, k2=0.0), height=64, width=64)
    torch.testing.assert_close(rays.norm(dim=0), torch.ones(64, 64))
    torch.testing.assert_close(rays[0], -rays[0].flip(1))
    torch.testing.assert_close(rays[1], -rays[1].flip(0))
    assert rays[1, 0, 32] > 0  # the top row looks up
    edge = (rays[0, 32, -1] / rays[2, 32, -1]).item()
    assert edge == pytest.approx(63 / 64, abs=1e-3)


def test_distortion_is_undone() -> None:
    lens = Lens(fov_rad=math.radians(80.0), k1=-0.08, k2=0.01)
    rays = pixel_rays(lens, height=32, width=32).double()
    flat = rays[:2] / rays[2] / math.tan(lens.fov_rad / 2)
    square = (flat**2).sum(dim=0)
    bent = flat * (1 + lens.k1 * square + lens.k2 * square**2)
    expected = (torch.arange(32, dtype=torch.float64) + 0.5 - 16) / 16
    inner = slice(6, 26)
    torch.testing.assert_close(bent[0, 16, inner], expected[inner], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("turn", "axis", "sign"), [("pan", 0, 1), ("tilt", 1, 1)], ids=["pan looks right", "tilt looks up"]
)
def test_turning_the_camera_moves_where_it_looks(turn: str, axis: int, sign: int) -> None:
    ahead = rotation(CameraPose.at([1.0], **{turn: 0.2}))[0] @ torch.tensor([0.0, 0.0, 1.0])
    assert sign * ahead[axis].item() == pytest.approx(math.sin(0.2), abs=1e-6)


def test_rolling_clockwise_turns_the_camera_s_up_to_the_right() -> None:
    up = rotation(CameraPose.at([1.0], roll=0.3))[0] @ torch.tensor([0.0, 1.0, 0.0])
    assert up[0].item() == pytest.approx(math.sin(0.3), abs=1e-6)


def test_rotations_are_orthonormal() -> None:
    matrices = rotation(CameraPose.at([0.0, 1.0], pan=[0.4, -0.2], tilt=0.3, roll=[1.0, -2.0]))
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(3).expand(2, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(2))


def test_select_keeps_lens_and_light() -> None:
    poses = CameraPose.at([1.0, 2.0, 3.0], lens=Lens(k1=0.05), light=Light(gain=2.0))
    some = poses.select(torch.tensor([2, 0]))
    assert some.distance_m.tolist() == [3.0, 1.0]
    assert (some.lens, some.light) == (poses.lens, poses.light)


def test_errors_name_the_field() -> None:
    with pytest.raises(ConfigError, match="fov_rad"):
        Lens(fov_rad=3.0)
    with pytest.raises(ConfigError, match="asymmetry"):
        Light(asymmetry=2.0)
    with pytest.raises(ConfigError, match="pan"):
        CameraPose.at([1.0, 2.0], pan=[0.1])
