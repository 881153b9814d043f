"""The files that one video's folder is handed over with.

    findings.json     what was scored with what, what became of every picture, the findings
    findings.csv      the findings as rows of observations
    frames.parquet    every sampled frame
    en13508.txt       the exchange text of EN 13508-2
    pacp/*.csv        the tables of PACP 7
    peak_001.jpg      the peak frame of each finding under its evidence; peak_001_bare.jpg without it
    report.html       the above as a page for people, made from it by `serving.report`

`findings.json` is written last, so a folder that has it has all but the page. The same content, pair and settings make
the same bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.durable import write_bytes_atomic
from serving.formats import csv_rows, en13508, frames_parquet, json_file, pacp
from serving.formats.frames_parquet import Frames
from serving.formats.observation import Observation, Origin, observe
from serving.inspections.distance import Place
from serving.inspections.findings import Finding
from serving.inspections.thumbnails import PeakPictures, bare_name
from serving.pairs.versions import version_of

FINDINGS_FILE = "findings.json"
ROWS_FILE = "findings.csv"
REPORT_FILE = "report.html"

# A write takes far less; what is older was left by a process that was killed while it wrote.
_ABANDONED_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """A finding, and where along the pipe its peak frame was taken."""

    finding: Finding
    place: Place


def write_deliverables(
    folder: Path,
    origin: Origin,
    about: Mapping[str, Any],
    frames: Frames,
    findings: Sequence[Found],
    peaks: PeakPictures,
) -> dict[str, Any]:
    """Write all files of a video, in place of what lies in `folder`; returns the content of `findings.json`.

    `about` is what that file says beside the findings. Raises `OSError` if the folder cannot be written.
    """
    clear(folder)
    observations = [_observe(n, found, origin, peaks) for n, found in enumerate(findings, start=1)]
    for observation, found in zip(observations, findings, strict=True):
        write_bytes_atomic(folder / observation.photo, peaks.jpeg_at(found.finding.peak_s))
        write_bytes_atomic(folder / bare_name(observation.photo), peaks.bare_jpeg_at(found.finding.peak_s))
    frames_parquet.write_frames(folder / frames_parquet.FILE, frames, _about_frames(origin, about["scoring"]))
    csv_rows.write_observations(folder / ROWS_FILE, observations)
    en13508.write_en13508(folder / en13508.FILE, origin, observations)
    pacp.write_pacp(folder / pacp.FOLDER, origin, observations)
    return json_file.write_findings(folder / FINDINGS_FILE, about, observations)


def read_findings(folder: Path) -> dict[str, Any] | None:
    """`findings.json` in a folder, None if there is none that this release wrote."""
    try:
        document = json.loads((folder / FINDINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and document.get("schema") == json_file.SCHEMA else None


def deliverables(document: Mapping[str, Any]) -> list[str]:
    """Names in the folder of what belongs to a `findings.json`, itself last; not the page, which is made from them."""
    photos = [finding["photo"] for finding in document["findings"]]
    return [*photos, *map(bare_name, photos), frames_parquet.FILE, ROWS_FILE, en13508.FILE, *pacp.FILES, FINDINGS_FILE]


def are_all_there(folder: Path, document: Mapping[str, Any]) -> bool:
    """Whether nothing that belongs to a `findings.json` is missing from its folder."""
    return all((folder / name).is_file() for name in deliverables(document))


def clear(folder: Path) -> None:
    """Remove what an earlier call left here, the mark of completeness first."""
    (folder / FINDINGS_FILE).unlink(missing_ok=True)
    (folder / REPORT_FILE).unlink(missing_ok=True)
    for photo in folder.glob("peak_*.jpg"):
        photo.unlink(missing_ok=True)
    for partial in folder.rglob(".*.partial"):
        try:
            if time.time() - partial.stat().st_mtime > _ABANDONED_S:
                partial.unlink()
        except FileNotFoundError:  # of another process, which has finished it
            continue


def _observe(number: int, found: Found, origin: Origin, peaks: PeakPictures) -> Observation:
    evidence = peaks.place_at(found.finding.peak_s)
    return observe(
        found.finding,
        origin,
        f"peak_{number:03d}.jpg",
        place=found.place,
        box=evidence.box,
        clock=evidence.clock,
    )


def _about_frames(origin: Origin, scoring: Mapping[str, Any]) -> dict[str, str]:
    return {
        "video": origin.video,
        "video_sha256": origin.video_sha256,
        "pair": origin.pair,
        "pair_version": origin.pair_version,
        "pipeprobe_version": version_of("pipeprobe"),
        "scoring": json.dumps(scoring),
    }
