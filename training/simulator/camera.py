"""Where the inspection camera is, how its lens bends light and how its ring of lamps shines.

Axes: z runs along the pipe (the distance), x to the right, y up, metres. Clock positions are read looking
along +z: 12 is the crown, 3 is right. Shapes: N frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from serving.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Lens:
    """A wide-angle lens: horizontal field of view and radial distortion r' = r (1 + k1 r^2 + k2 r^4).

    `r` is the undistorted radius over half the picture width; negative `k1` is the usual barrel distortion.
    """

    fov_rad: float = math.radians(95.0)
    k1: float = -0.08
    k2: float = 0.01

    def __post_init__(self) -> None:
        if not math.radians(20.0) <= self.fov_rad <= math.radians(150.0):
            raise ConfigError(f"lens: fov_rad {self.fov_rad:.3f} is outside 20..150 degrees")
        if not (-0.25 <= self.k1 <= 0.25 and -0.1 <= self.k2 <= 0.1):
            raise ConfigError(f"lens: distortion k1={self.k1}, k2={self.k2} is not a lens (|k1|<=.25, |k2|<=.1)")


@dataclass(frozen=True, kw_only=True)
class Light:
    """The ring of lamps round the lens.

    gain: overall brightness (1 exposes a grey wall well). falloff: how fast light fades along the pipe
    (0.5 flat .. 2 fast). asymmetry: share by which the ring's bright side exceeds its dark side.
    asymmetry_clock: clock position of the bright side. tint: linear RGB of the lamps.
    """

    gain: float = 1.0
    falloff: float = 1.0
    asymmetry: float = 0.15
    asymmetry_clock: float = 6.0
    tint: tuple[float, float, float] = (1.0, 0.96, 0.9)

    def __post_init__(self) -> None:
        if self.gain <= 0 or not 0.2 <= self.falloff <= 3.0 or not 0 <= self.asymmetry <= 0.8:
            raise ConfigError(
                f"light: gain {self.gain} must be > 0, falloff {self.falloff} in 0.2..3, "
                f"asymmetry {self.asymmetry} in 0..0.8"
            )
        if len(self.tint) != 3 or min(self.tint) <= 0:
            raise ConfigError(f"light: tint {self.tint} must be three positive numbers")


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraPose:
    """Poses of N frames seen by one camera: six float32 tensors [N], one lens, one light.

    distance_m: of the lens along the pipe. offset_x, offset_y: from the pipe's axis, as a share of its radius
    (right, up positive; the length of the offset stays under 0.9). pan, tilt, roll: radians; pan > 0 looks
    right, tilt > 0 looks up, roll > 0 turns the camera clockwise.
    """

    distance_m: Tensor
    offset_x: Tensor
    offset_y: Tensor
    pan: Tensor
    tilt: Tensor
    roll: Tensor
    lens: Lens = Lens()
    light: Light = Light()

    def __post_init__(self) -> None:
        shape = self.distance_m.shape
        if self.distance_m.dim() != 1:
            raise ConfigError(f"camera: distance_m must be one-dimensional, not of shape {tuple(shape)}")
        for name in _TENSORS:
            value = getattr(self, name)
            if value.shape != shape or value.dtype != torch.float32:
                raise ConfigError(
                    f"camera: {name} is {value.dtype} {tuple(value.shape)}, expected float32 {tuple(shape)}"
                )

    @classmethod
    def at(
        cls,
        distance_m: Sequence[float],
        *,
        offset_x: float | Sequence[float] = 0.0,
        offset_y: float | Sequence[float] = 0.0,
        pan: float | Sequence[float] = 0.0,
        tilt: float | Sequence[float] = 0.0,
        roll: float | Sequence[float] = 0.0,
        lens: Lens | None = None,
        light: Light | None = None,
    ) -> CameraPose:
        """Poses at these distances; each other number is one for all frames or one per frame."""
        count = len(distance_m)

        def column(value: float | Sequence[float]) -> Tensor:
            if isinstance(value, (int, float)):
                return torch.full((count,), float(value))
            return torch.tensor(list(value), dtype=torch.float32)

        return cls(
            distance_m=column(distance_m),
            offset_x=column(offset_x),
            offset_y=column(offset_y),
            pan=column(pan),
            tilt=column(tilt),
            roll=column(roll),
            lens=lens or Lens(),
            light=light or Light(),
        )

    def __len__(self) -> int:
        return int(self.distance_m.shape[0])

    def select(self, index: slice | Tensor) -> CameraPose:
        """The poses of some of the frames: a slice, or an int64 / bool tensor."""
        return replace(self, **{name: getattr(self, name)[index] for name in _TENSORS})

    def to(self, device: str | torch.device) -> CameraPose:
        """The same poses on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})


_TENSORS = tuple(f.name for f in fields(CameraPose) if f.name not in ("lens", "light"))


def pixel_rays(lens: Lens, *, height: int, width: int, device: str | torch.device = "cpu") -> Tensor:
    """Unit directions [3, H, W] float32 of the pixel centres in camera axes (x right, y up, z ahead).

    Pixels are square; the distortion is undone by fixed-point iteration.
    """
    half = width / 2.0
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - half) / half
    y = (height / 2.0 - torch.arange(height, dtype=torch.float64) - 0.5) / half
    bent_y, bent_x = torch.meshgrid(y, x, indexing="ij")
    flat_x, flat_y = bent_x.clone(), bent_y.clone()
    for _ in range(12):
        square = (flat_x**2 + flat_y**2).clamp(max=2.5)
        scale = 1.0 + square * (lens.k1 + lens.k2 * square)
        flat_x, flat_y = bent_x / scale, bent_y / scale
    tangent = math.tan(lens.fov_rad / 2.0)
    rays = torch.stack([flat_x * tangent, flat_y * tangent, torch.ones_like(flat_x)])
    directions: Tensor = rays / rays.norm(dim=0)
    return directions.to(torch.float32).to(device)


def rotation(poses: CameraPose) -> Tensor:
    """Matrices [N, 3, 3] float32 from camera to pipe directions (roll, then tilt, then pan)."""
    zero, one = torch.zeros_like(poses.pan), torch.ones_like(poses.pan)

    def matrix(rows: list[list[Tensor]]) -> Tensor:
        return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)

    cos, sin = torch.cos, torch.sin
    # A camera turned clockwise sees the world turned anticlockwise; in camera axes its x points down-right.
    roll = matrix(
        [
            [cos(poses.roll), sin(poses.roll), zero],
            [-sin(poses.roll), cos(poses.roll), zero],
            [zero, zero, one],
        ]
    )
    tilt = matrix(
        [
            [one, zero, zero],
            [zero, cos(poses.tilt), sin(poses.tilt)],
            [zero, -sin(poses.tilt), cos(poses.tilt)],
        ]
    )
    pan = matrix([[cos(poses.pan), zero, sin(poses.pan)], [zero, one, zero], [-sin(poses.pan), zero, cos(poses.pan)]])
    return pan @ tilt @ roll
