"""Times on the command line: plain seconds, or with a unit."""

from __future__ import annotations

import re
from typing import Any

import click

_SECONDS_OF = {"": 1.0, "s": 1.0, "ms": 1e-3, "min": 60.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|min|)")


class Duration(click.ParamType[float]):
    """`0.5`, `0.5s`, `500ms` or `2min`, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = _DURATION.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no time: say 0.5, 0.5s, 500ms or 2min", param, ctx)
        return float(found[1]) * _SECONDS_OF[found[2]]
