"""What pipes are made of. Albedo is linear RGB; bump and joint sizes are pipe radii."""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Material:
    """One pipe material: the colours of several makes, each from dark to light; no joints where `joint_width` is 0."""

    makes: tuple[tuple[RGB, RGB], ...]
    bump: float
    grain: float
    gloss: float
    joint_width: float
    joint_depth: float
    courses: bool = False


MATERIALS: dict[str, Material] = {
    "concrete": Material(
        makes=(((0.25, 0.24, 0.21), (0.50, 0.48, 0.43)), ((0.30, 0.27, 0.22), (0.54, 0.49, 0.41))),
        bump=0.014,
        grain=0.10,
        gloss=0.08,
        joint_width=0.030,
        joint_depth=0.05,
    ),
    "clay": Material(
        makes=(((0.24, 0.12, 0.075), (0.42, 0.25, 0.17)), ((0.20, 0.13, 0.09), (0.36, 0.27, 0.20))),
        bump=0.004,
        grain=0.035,
        gloss=0.45,
        joint_width=0.025,
        joint_depth=0.05,
    ),
    "pvc": Material(
        makes=(
            ((0.40, 0.22, 0.10), (0.52, 0.32, 0.17)),
            ((0.36, 0.37, 0.38), (0.50, 0.51, 0.52)),
            ((0.20, 0.30, 0.20), (0.30, 0.42, 0.29)),
        ),
        bump=0.002,
        grain=0.015,
        gloss=0.55,
        joint_width=0.018,
        joint_depth=0.03,
    ),
    "brick": Material(
        makes=(((0.22, 0.12, 0.09), (0.40, 0.24, 0.18)), ((0.26, 0.22, 0.16), (0.44, 0.38, 0.29))),
        bump=0.012,
        grain=0.12,
        gloss=0.06,
        joint_width=0.0,
        joint_depth=0.0,
        courses=True,
    ),
    "liner": Material(
        makes=(((0.42, 0.43, 0.36), (0.58, 0.58, 0.50)), ((0.36, 0.40, 0.36), (0.50, 0.56, 0.50))),
        bump=0.006,
        grain=0.02,
        gloss=0.40,
        joint_width=0.0,
        joint_depth=0.0,
    ),
    "iron": Material(
        makes=(((0.09, 0.075, 0.065), (0.28, 0.18, 0.11)),),
        bump=0.022,
        grain=0.14,
        gloss=0.15,
        joint_width=0.040,
        joint_depth=0.07,
    ),
    "grp": Material(
        makes=(((0.28, 0.36, 0.33), (0.42, 0.52, 0.48)), ((0.42, 0.38, 0.22), (0.56, 0.50, 0.33))),
        bump=0.004,
        grain=0.06,
        gloss=0.50,
        joint_width=0.050,
        joint_depth=0.03,
    ),
    "vitrified": Material(
        makes=(((0.09, 0.06, 0.05), (0.20, 0.14, 0.11)),),
        bump=0.005,
        grain=0.04,
        gloss=0.85,
        joint_width=0.035,
        joint_depth=0.06,
    ),
    "cement": Material(
        makes=(((0.40, 0.40, 0.38), (0.62, 0.62, 0.60)),),
        bump=0.020,
        grain=0.07,
        gloss=0.05,
        joint_width=0.045,
        joint_depth=0.06,
    ),
}
