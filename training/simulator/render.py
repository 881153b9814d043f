"""Pictures of a pipe world: linear light, depth and the class of what each pixel shows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Rendered:
    """N frames. linear: float32 [N, 3, H, W] in [0, 1], linear light. depth_m: float32 [N, H, W],
    straight-line distance from the lens. classes: uint8 [N, H, W], 0 nothing, else 1 + index into CLASS_CODES.
    """

    linear: Tensor
    depth_m: Tensor
    classes: Tensor
