"""The files of a whole batch, beside the folders of its videos.

    summary.csv  summary.json   a row a video
    index.html                  the same as a page for people, made by `serving.report`
    manifest.json               content hashes of what went in and came out, versions, settings, counts, failures
    timing.json                 how long it took, and which videos had been done before

All but the last say the same however often, and after however many kills, the same videos are scored with the same
pair and settings. The manifest is there only when a call has ended: it is removed first and written last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from serving.durable import sha256_file, write_json_atomic
from serving.formats import csv_rows
from serving.inspections.deliverables import REPORT_FILE, deliverables, read_findings
from serving.inspections.video_result import VideoResult
from serving.pairs.versions import versions

SUMMARY_CSV, SUMMARY_JSON = "summary.csv", "summary.json"
INDEX_FILE = "index.html"
MANIFEST_FILE, TIMING_FILE = "manifest.json", "timing.json"
SCHEMA = "pipeprobe-batch/1"

SUMMARY_COLUMNS = tuple(each.name for each in fields(VideoResult) if each.name != "seconds_taken")

_COUNTED = (
    *(each.name for each in fields(VideoResult) if each.name == "findings" or each.name.startswith("frames")),
    "lost_s",
)


def write_summary(out: Path, results: Sequence[VideoResult], scoring: Mapping[str, Any]) -> None:
    """Write a row for each result so far."""
    rows = [_row(result) for result in results]
    csv_rows.write_rows(out / SUMMARY_CSV, SUMMARY_COLUMNS, rows)
    write_json_atomic(out / SUMMARY_JSON, {"videos": _count_videos(results), "scoring": dict(scoring), "results": rows})


def write_manifest(
    out: Path,
    results: Sequence[VideoResult],
    scoring: Mapping[str, Any],
    *,
    seconds: float,
    sha256: Callable[[Path], str] = sha256_file,
) -> None:
    """Write what the call that ends now, after `seconds`, has made of all its videos; all else is there.

    `sha256` is asked for the hashes of results.
    """
    write_json_atomic(
        out / TIMING_FILE,
        {
            "seconds_taken": round(seconds, 3),
            "videos": [
                {"video": each.video, "status": each.status, "seconds_taken": each.seconds_taken} for each in results
            ],
        },
    )
    write_json_atomic(
        out / MANIFEST_FILE,
        {
            "schema": SCHEMA,
            "versions": versions(),
            "scoring": dict(scoring),
            "videos": _count_videos(results),
            "counts": {name: sum(getattr(each, name) for each in results) for name in _COUNTED},
            "longest_gap_m": max(
                (each.longest_gap_m for each in results if each.longest_gap_m is not None), default=None
            ),
            "failures": [_identity(each) | {"reason": each.reason} for each in results if each.status == "failed"],
            "incomplete": [_identity(each) | {"reason": each.reason} for each in results if _is_incomplete(each)],
            "inputs": [_identity(each) for each in results],
            "outputs": dict(_outputs(out, results, sha256)),
            "timing": TIMING_FILE,
        },
    )


def remove_manifest(out: Path) -> None:
    """So that none is there that tells of other files than those that lie here."""
    (out / MANIFEST_FILE).unlink(missing_ok=True)


@contextmanager
def pages_changing(out: Path) -> Iterator[None]:
    """Around changes to pages: the manifest, if there is one, is away meanwhile and has their new hashes afterwards."""
    try:
        manifest: dict[str, Any] = json.loads((out / MANIFEST_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        yield
        return
    remove_manifest(out)
    try:
        yield
    finally:
        pages = (name for name in manifest["outputs"] if name.rpartition("/")[2] in (REPORT_FILE, INDEX_FILE))
        manifest["outputs"] |= {name: sha256_file(out / name) for name in pages if (out / name).is_file()}
        write_json_atomic(out / MANIFEST_FILE, manifest)


def _outputs(out: Path, results: Sequence[VideoResult], sha256: Callable[[Path], str]) -> Iterator[tuple[str, str]]:
    """Path below `out`, with slashes, and SHA-256 of every file that belongs to the results."""
    for result in results:
        document = None if result.status == "failed" else read_findings(result.folder)
        for name in [] if document is None else [*deliverables(document), REPORT_FILE]:
            path = result.folder / name
            yield path.relative_to(out).as_posix(), sha256(path)
    for name in (SUMMARY_CSV, SUMMARY_JSON, INDEX_FILE):
        yield name, sha256_file(out / name)


def _identity(result: VideoResult) -> dict[str, Any]:
    """Which video: its path as it was given, its content, and the folder of its results, None if it has none."""
    folder = None if result.status == "failed" else result.folder.name
    return {"video": result.video, "video_sha256": result.video_sha256, "folder": folder}


def _row(result: VideoResult) -> dict[str, Any]:
    # Whether a video was scored now or before depends on what an earlier call got done.
    status = "scored" if result.status == "kept" else result.status
    row = asdict(result) | {"folder": result.folder.name, "status": status}
    return {name: row[name] for name in SUMMARY_COLUMNS}


def _count_videos(results: Sequence[VideoResult]) -> dict[str, int]:
    failed = sum(result.status == "failed" for result in results)
    return {"scored": len(results) - failed, "failed": failed, "incomplete": sum(map(_is_incomplete, results))}


def _is_incomplete(result: VideoResult) -> bool:
    return result.status != "failed" and not result.complete
