"""Parquet with one row a sampled frame, whether or not it became a finding.

    pts_s                double   seconds from the video's start
    score, logit         float    calibrated probability of a defect, and what it was made of
    kind                 string   `keyframe` if the picture was coded alone, else `predicted`
    score_source         string   scored; or where the score is that of the last scored frame from: still, because both
                                  show the same; between, because a shorter way lies between them than was asked for
                                  (`pipeprobe videos --every 0.25m`)
    distance_m           double   null where it is not known
    distance_source      string   osd, interpolated, sidecar or none
    distance_confidence  float    null where no distance is known

The file's own metadata says what was scored with what. Equal content makes equal bytes.

Shape legend: N frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any

from serving.durable import write_bytes_atomic
from serving.errors import ConfigError

FILE = "frames.parquet"

KEYFRAME, PREDICTED = "keyframe", "predicted"
SCORED, BETWEEN, STILL = "scored", "between", "still"

_NULLABLE = ("distance_m", "distance_confidence")
_TYPES = {
    "pts_s": "float64",
    "score": "float32",
    "logit": "float32",
    "kind": "string",
    "score_source": "string",
    "distance_m": "float64",
    "distance_source": "string",
    "distance_confidence": "float32",
}


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The sampled frames of a video as columns of N; see the module. Raises `ValueError` if they differ in length."""

    pts_s: Sequence[float]
    score: Sequence[float]
    logit: Sequence[float]
    kind: Sequence[str]
    score_source: Sequence[str]
    distance_m: Sequence[float | None]
    distance_source: Sequence[str]
    distance_confidence: Sequence[float | None]

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"every frame needs every column, got {lengths}")


def write_frames(path: Path, frames: Frames, about: Mapping[str, str]) -> None:
    """Write frames, with `about` (texts by name) as the file's metadata."""
    import pyarrow as pa  # costs as much time as starting the rest of the command
    import pyarrow.parquet as pq

    schema = pa.schema(
        [pa.field(name, getattr(pa, kind)(), nullable=name in _NULLABLE) for name, kind in _TYPES.items()],
        metadata={name: text.encode(errors="backslashreplace") for name, text in about.items()},
    )
    columns = {name: list(getattr(frames, name)) for name in _TYPES}
    buffer = BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer, compression="zstd")
    write_bytes_atomic(path, buffer.getvalue())


def read_frames(path: Path) -> Frames:
    """What `write_frames` wrote. Raises `ConfigError`, naming the file, if that is not what lies there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Opened here: a path that is handed over as such could mean another file system.
        with path.open("rb") as file:
            columns: dict[str, list[Any]] = pq.read_table(file, columns=list(_TYPES)).to_pydict()
        return Frames(**columns)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error}): score the video again") from error
    except (pa.ArrowException, TypeError) as error:
        raise ConfigError(f"{path} is not what `pipeprobe videos` writes ({error}): score the video again") from error
