"""How densely to sample, on the command line: a time, or a distance along the pipe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import click

from serving.commands.duration import Duration
from serving.inspections.video_settings import VideoSettings

_METRES = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*m")


@dataclass(frozen=True, kw_only=True)
class Step:
    """As `VideoSettings` has it: a distance goes with the usual time between two frames that are looked at."""

    every_s: float = VideoSettings().every_s
    every_m: float | None = None


class StepType(click.ParamType[Step]):
    """`0.5`, `0.5s` or `200ms`, or `0.25m`."""

    name = "step"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Step:
        if isinstance(value, Step):
            return value
        metres = _METRES.fullmatch(str(value).strip())
        if metres is not None:
            return Step(every_m=float(metres[1]))
        try:
            return Step(every_s=Duration().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"{value!r} is no time and no distance: say 0.5s, 200ms or 0.25m", param, ctx)
