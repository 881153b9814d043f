"""Distances that lie beside a video as `VIDEO.distance.csv`, for systems that log what they do not burn in.

    time_s,distance_m
    0.0,0.00
    1.5,0.21

Times rise, in seconds from the video's first picture. Between two rows that are not too far apart distance is even;
before the first and after the last nothing is known.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from serving.errors import VideoError
from serving.inspections.distance import MAX_GAP_S, NOWHERE, Place

COLUMNS = ("time_s", "distance_m")


def sidecar_of(video: Path) -> Path:
    """Where distances of a video would lie."""
    return video.with_name(f"{video.name}.distance.csv")


def read_sidecar(path: Path) -> list[tuple[float, float]]:
    """(time_s, distance_m) of each row. Raises `VideoError`, naming the file, the line and what belongs there."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(_rows(path, file))
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise VideoError(f"{path} is not CSV in UTF-8 ({error}); {_belongs()}") from error
    if not rows:
        raise VideoError(f"{path} has no rows; {_belongs()}")
    for number, (earlier, later) in enumerate(pairwise(rows), start=3):
        if later[0] <= earlier[0]:
            raise VideoError(f"{path}, line {number}: time {later[0]:g} s does not come after {earlier[0]:g} s")
    return rows


def _rows(path: Path, lines: Iterator[str] | Sequence[str]) -> Iterator[tuple[float, float]]:
    reader = csv.reader(lines)
    if tuple(each.strip() for each in next(reader, [])) != COLUMNS:
        raise VideoError(f"{path}, line 1: {_belongs()}")
    for row in reader:
        try:
            time_s, distance_m = (float(each) for each in row)
        except ValueError:
            time_s = distance_m = math.nan
        if not (math.isfinite(time_s) and math.isfinite(distance_m)):
            raise VideoError(f"{path}, line {reader.line_num}: two numbers belong there, such as 1.5,0.21")
        yield time_s, distance_m


def _belongs() -> str:
    return f"its first line must be {','.join(COLUMNS)}, and two numbers follow a line"


def place_between(rows: Sequence[tuple[float, float]], time_s: float) -> Place:
    """Where a frame was taken by the rows of `read_sidecar`."""
    after = bisect_right(rows, (time_s, math.inf))
    if after == 0:
        return NOWHERE
    (begin_s, begin_m), (end_s, end_m) = rows[after - 1], rows[min(after, len(rows) - 1)]
    if begin_s == time_s:
        return _place(begin_m)
    if after == len(rows) or end_s - begin_s > MAX_GAP_S:
        return NOWHERE
    return _place(begin_m + (end_m - begin_m) * (time_s - begin_s) / (end_s - begin_s))


def _place(distance_m: float) -> Place:
    return Place(distance_m=round(distance_m, 3), source="sidecar", confidence=1.0)
