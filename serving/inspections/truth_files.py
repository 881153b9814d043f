"""What is known to be in inspections: truths beside simulated ones, or a table of one's own.

A folder is searched for `NAME.truth.json`, as the simulator writes them. A table is CSV in UTF-8:

    video,start_m,end_m,code          or    video,start_s,end_s,code
    run-17.mpg,12.3,12.3,BAB                run-17.mpg,95,101.5,BAB
    run-18.mpg,,,                           run-18.mpg,,,

Metres are those of the counter, an observation without an extent has the same twice; seconds count from the video's
start. A video that holds nothing to find is named in a row without numbers: one that is not named is not known. The
code may be empty, and the column may be missing: a binary pair tells defect from normal.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError
from serving.inspections.matching import Interval
from serving.inspections.review_curve import Axis

TRUTH_SUFFIX = ".truth.json"
_COLUMNS: dict[tuple[str, str, str], Axis] = {
    ("video", "start_m", "end_m"): "distance",
    ("video", "start_s", "end_s"): "time",
}
_BELONGS = "its first line must be video,start_m,end_m,code or video,start_s,end_s,code"


@dataclass(frozen=True, kw_only=True)
class KnownVideo:
    """What is known of one video.

    Attributes:
        spans: in seconds or metres, as `axis` says; in no order, and they may overlap.
        track: [K, 2] of time, seconds, and distance, metres; None where only the counter knows it.
    """

    spans: tuple[Interval, ...]
    axis: Axis
    track: NDArray[np.float64] | None


def read_truth(path: Path) -> dict[str, KnownVideo]:
    """By the name of the video, as a folder of truths or a table gives it; see the module.

    Raises `ConfigError`, naming the file and what belongs there.
    """
    try:
        known = _read_folder(path) if path.is_dir() else _read_table(path)
    except OSError as error:
        raise ConfigError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    if not known:
        wanted = f"no *{TRUTH_SUFFIX} in it" if path.is_dir() else "it has no rows"
        raise ConfigError(f"{path} says nothing of any video: {wanted}")
    return known


def _read_folder(folder: Path) -> dict[str, KnownVideo]:
    known: dict[str, KnownVideo] = {}
    for path in sorted(folder.rglob(f"*{TRUTH_SUFFIX}")):
        name, video = _read_simulated(path)
        if name in known:
            raise ConfigError(f"{folder} has truths of two videos called {name}: name a folder with one of them")
        known[name] = video
    return known


def _read_simulated(path: Path) -> tuple[str, KnownVideo]:
    try:
        truth = json.loads(path.read_text(encoding="utf-8"))
        spans = tuple(Interval(start_s=each["start_s"], end_s=each["end_s"]) for each in truth["findings"])
        track = np.array(truth["track"], np.float64).reshape(-1, 2)
        return str(truth["video"]), KnownVideo(spans=spans, axis="time", track=track)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a truth that `pipeprobe-train simulate` writes ({error!r})") from error


def _read_table(path: Path) -> dict[str, KnownVideo]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [each.strip() for each in next(reader, [])]
            axis = _COLUMNS.get((*header[:3], "", "", "")[:3])  # type: ignore[arg-type]  # three of them
            if axis is None or header[3:] not in ([], ["code"]):
                raise ConfigError(f"{path}, line 1: {_BELONGS}")
            spans: dict[str, list[Interval]] = {}
            for name, span in _rows(path, reader, len(header)):
                spans.setdefault(name, []).extend([] if span is None else [span])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is not CSV in UTF-8 ({error}); {_BELONGS}") from error
    return {name: KnownVideo(spans=tuple(each), axis=axis, track=None) for name, each in spans.items()}


def _rows(path: Path, reader: Iterator[list[str]], n_columns: int) -> Iterator[tuple[str, Interval | None]]:
    for number, row in enumerate(reader, start=2):
        if not row:
            continue
        name, *numbers = (each.strip() for each in row[:3])
        if len(row) != n_columns or not name:
            raise ConfigError(f"{path}, line {number}: it needs a video and {n_columns - 1} more fields; {_BELONGS}")
        yield name, _span(path, number, numbers)


def _span(path: Path, number: int, numbers: list[str]) -> Interval | None:
    if not any(numbers):
        return None
    try:
        start, end = map(float, numbers)
        if not (math.isfinite(start) and math.isfinite(end)):
            raise ValueError("a number must be finite")
        return Interval(start_s=start, end_s=end)
    except ValueError as error:
        raise ConfigError(
            f"{path}, line {number}: start and end must be two numbers that do not fall, or both empty for a video "
            f"that holds nothing, got {', '.join(map(repr, numbers))}"
        ) from error
