"""How inspections are sampled and what makes a finding; apart from `videos`, to be had without FFmpeg."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from serving.errors import ConfigError

DistanceFrom = Literal["auto", "osd", "sidecar", "none"]
"""Where distances along the pipe come from; see `serving.inspections.locating`."""

SHORTEST_STEP_S = 0.01
"""Seconds; inspections have 25 or 30 pictures a second, so at this step all are scored."""

HANG_S = 60.0
"""Seconds without a sign of life after which what reads a video is taken to hang; else it gives one every second.

What it was at is left out, and reported. Apart from the settings, since it decides nothing of what is found elsewhere.
"""

SHORTEST_HANG_S, LONGEST_HANG_S = 5, 86_400
"""Seconds; below the shortest, a busy machine would be taken for a broken video."""

STEPS_M = (0.01, 5.0)
"""Shortest and longest step along the pipe, metres."""

FASTEST_M_S = 0.5
"""A crawler that films is not faster; to sample by distance, one looks so often that it stays within a step."""

DISTANCES_FROM: tuple[str, ...] = get_args(DistanceFrom)


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """How inspections are sampled and what makes a finding.

    Attributes:
        every_s: most seconds between two sampled frames, where the video has more.
        every_m: most metres between two scored frames, see `serving.inspections.thinning`; None bounds the time
            between them alone.
        repeat_stills: whether frames that show what the last scored one does are scored again.
        operating_point: name of the threshold that opens a finding; None is the pair's own.
        min_duration_s: shorter findings are dropped; the default asks for two frames in a row at the default step.
        join_gap_s: findings no farther apart become one.
        distance: what says where along the pipe a frame was taken.
    """

    every_s: float = 0.5
    every_m: float | None = None
    repeat_stills: bool = False
    operating_point: str | None = None
    min_duration_s: float = 0.75
    join_gap_s: float = 1.0
    distance: DistanceFrom = "auto"

    def __post_init__(self) -> None:
        if not SHORTEST_STEP_S <= self.every_s <= 60:
            raise ConfigError(f"a frame every {self.every_s} s is not possible; take {SHORTEST_STEP_S} to 60 s")
        if self.every_m is not None and not STEPS_M[0] <= self.every_m <= STEPS_M[1]:
            raise ConfigError(f"a frame every {self.every_m} m is not possible; take {STEPS_M[0]} to {STEPS_M[1]:g} m")
        if self.every_m is not None and self.distance == "none":
            raise ConfigError(f"a frame every {self.every_m} m needs a distance: take another than none, such as auto")
        if not 0 <= self.min_duration_s <= 3600:
            raise ConfigError(f"a minimum duration of {self.min_duration_s} s is not possible; take 0 to 3600 s")
        if not 0 <= self.join_gap_s <= 3600:
            raise ConfigError(f"joining findings {self.join_gap_s} s apart is not possible; take 0 to 3600 s")
        if self.distance not in DISTANCES_FROM:
            raise ConfigError(f"there is no distance by {self.distance!r}; take one of {', '.join(DISTANCES_FROM)}")

    @property
    def step_s(self) -> float:
        """Most seconds between two sampled frames: `every_s`, or less where a shorter step along the pipe wants it."""
        if self.every_m is None:
            return self.every_s
        return max(SHORTEST_STEP_S, min(self.every_s, self.every_m / FASTEST_M_S))
