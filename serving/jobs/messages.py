"""What a runner and a job's process tell each other: one JSON object a line, over the process's own pipes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from serving.inspections.video_settings import VideoSettings


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the process is to do: everything but the job itself comes from the service that runs it.

    Attributes:
        video: the file; where it was named by path, `root` is the folder that it must lie in, else None.
        shown: what the video is called in all that callers see, instead of where it lies.
        out: the folder that results go to.
        models, pair: the folder of the pairs, and NAME@VERSION in it.
        variant, device: as the service uses them; without a variant the fastest for the device.
        nice: how far to stand back behind live frames.
        hang_s: after how long without a sign of life what reads the video is ended.
    """

    video: Path
    root: Path | None
    shown: str
    out: Path
    models: Path
    pair: str
    variant: str | None
    device: str
    threads: int
    nice: int
    hang_s: float
    settings: VideoSettings

    def to_line(self) -> bytes:
        return json.dumps(asdict(self), default=str).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        values = json.loads(line)
        for name in ("video", "out", "models"):
            values[name] = Path(values[name])
        values["root"] = None if values["root"] is None else Path(values["root"])
        return cls(**values | {"settings": VideoSettings(**values["settings"])})


@dataclass(frozen=True, kw_only=True)
class Report:
    """How far the process is: frames scored, and how far into the video that is; at its end, how it ended.

    Attributes:
        summary: of a video that is done, as in the summary of `pipeprobe videos`.
        failure: why the video cannot be scored, however often it is tried.
    """

    frames: int = 0
    reached_s: float = 0.0
    duration_s: float | None = None
    summary: dict[str, Any] | None = None
    failure: str | None = None

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        return cls(**json.loads(line))
