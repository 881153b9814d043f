"""One JSON document an inspection: what was scored with what, and the findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving.durable import write_json_atomic
from serving.formats.observation import Observation

SCHEMA = "pipeprobe-findings/2"


def write_findings(path: Path, about: Mapping[str, Any], observations: Iterable[Observation]) -> dict[str, Any]:
    """Write `about` (video, pair, settings, counts) with the observations under `findings`; returns the document."""
    document = {"schema": SCHEMA, **about, "findings": [asdict(each) for each in observations]}
    write_json_atomic(path, document)
    return document
