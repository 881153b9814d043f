"""One JSON document an inspection: what was scored with what, and the findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving.durable import write_json_atomic
from serving.formats.observation import Observation

SCHEMA = "pipeprobe-findings/1"


def write_findings(path: Path, about: Mapping[str, Any], observations: Iterable[Observation]) -> None:
    """Write `about` (video, pair, settings, counts) and the observations under `findings`."""
    write_json_atomic(path, {"schema": SCHEMA, **about, "findings": [asdict(o) for o in observations]})
