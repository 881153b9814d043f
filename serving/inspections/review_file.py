"""The review file that a video's report saves: what a person decided about each finding. JSON:

    schema          "pipeprobe-review/1"
    video           file name of the video
    video_sha256    of its content, 64 hexadecimal digits
    duration_s      of the video
    findings_id     of the video with the settings it was scored with, as the report has it
    every_s         most seconds between two scored frames, where the video has more
    scoring         pair, pair_version, operating_point, enter, leave: what made the findings
    reviewer        who decided
    saved_at        when, ISO 8601 in UTC
    findings        a list of, for each finding:
        number                  from 1 on, as in the report
        start_s, end_s, peak_s  the half-open interval and its peak frame, seconds from the video's start
        score                   of the peak frame
        decision                "accepted": a defect; "rejected": none; "unreviewed": not decided
        code                    class code that the reviewer gave an accepted finding; empty if none
        remark                  free text

Keys beside these are ignored.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import DataError

SCHEMA = "pipeprobe-review/1"
ACCEPTED, REJECTED, UNREVIEWED = "accepted", "rejected", "unreviewed"

_DECISIONS = (ACCEPTED, REJECTED, UNREVIEWED)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided about one finding; `place` names file and finding, for messages. See the module."""

    place: str
    start_s: float
    end_s: float
    decision: str
    code: str
    remark: str


@dataclass(frozen=True, kw_only=True)
class Review:
    """A review file; see the module."""

    path: Path
    video: str
    video_sha256: str
    every_s: float
    reviewer: str
    decisions: tuple[Decision, ...]


def read_review(path: Path) -> Review:
    """Read a review file. Raises `DataError`, naming the file, the finding and what is wrong with it."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): save the review from the report again") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise DataError(f"{path} is not a review file: its schema is {str(schema)[:50]!r}, not {SCHEMA!r}")
    values = _Values(str(path), document)
    findings = document.get("findings")
    if not isinstance(findings, list) or not all(isinstance(each, dict) for each in findings):
        raise DataError(f"{path}: findings must be a list of objects; save the review from the report again")
    sha256 = values.text("video_sha256")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise DataError(f"{path}: video_sha256 is {sha256[:70]!r}; it must be 64 hexadecimal digits")
    every_s = values.number("every_s")
    if every_s <= 0:
        raise DataError(f"{path}: every_s is {every_s}; it must be positive")
    return Review(
        path=path,
        video=_file_name(path, values.text("video")),
        video_sha256=sha256,
        every_s=every_s,
        reviewer=values.text("reviewer"),
        decisions=tuple(_decision(f"{path}, finding {n}", each) for n, each in enumerate(findings, start=1)),
    )


def _file_name(path: Path, name: str) -> str:
    if not name or "/" in name or "\\" in name or name in (".", ".."):
        raise DataError(f"{path}: video is {name[:100]!r}; it must be a file name without folders")
    return name


def _decision(place: str, finding: Mapping[str, Any]) -> Decision:
    values = _Values(place, finding)
    start_s, end_s, decision = values.number("start_s"), values.number("end_s"), values.text("decision")
    if not start_s < end_s:
        raise DataError(f"{place}: start_s {start_s} must be before end_s {end_s}")
    if decision not in _DECISIONS:
        raise DataError(f"{place}: the decision {decision[:50]!r} is unknown; it must be {', '.join(_DECISIONS)}")
    return Decision(
        place=place,
        start_s=start_s,
        end_s=end_s,
        decision=decision,
        code=values.text("code").strip().upper(),
        remark=values.text("remark"),
    )


@dataclass(frozen=True)
class _Values:
    """Values of a JSON object, checked; `place` says whose."""

    place: str
    values: Mapping[str, Any]

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str):
            raise DataError(f"{self.place}: {key} is {_shown(value)}; it must be text")
        return value

    def number(self, key: str) -> float:
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise DataError(f"{self.place}: {key} is {_shown(value)}; it must be a number of seconds, 0 or more")
        return float(value)


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:50]
