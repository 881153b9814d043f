"""What lies in an output folder, as the data of the pages.

All that the pages know passes through here, so the formats of the deliverables are known in this one place. Everything
returned is plain JSON and follows from the files alone: the same files make the same bytes of a page.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from serving.durable import sha256_bytes
from serving.errors import ConfigError
from serving.formats import frames_parquet
from serving.formats.observation import clock_time
from serving.inspections.batch_files import SUMMARY_JSON
from serving.inspections.deliverables import FINDINGS_FILE, REPORT_FILE, read_findings
from serving.inspections.sewer_ml_format import CLASS_NAMES
from serving.inspections.thumbnails import bare_name
from serving.inspections.video_result import lost_stretches, missing_text, seconds_in

Json = dict[str, Any]

_FATES = ("decoded", "skipped", "corrupt", "lost")


def read_failures(out: Path) -> list[Json]:
    """The videos that the latest call could not score, with `video` and `reason`; empty if no call has ended here."""
    try:
        results = json.loads((out / SUMMARY_JSON).read_text(encoding="utf-8"))["results"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{out / SUMMARY_JSON} is not what `pipeprobe videos` writes ({error!r})") from error
    return [result for result in results if result["status"] == "failed"]


def read_finished(out: Path) -> tuple[dict[Path, Json], list[Path]]:
    """Folder -> `findings.json` of the videos scored into `out`, by name; and folders that another release wrote."""
    try:
        folders = sorted(each for each in out.iterdir() if (each / FINDINGS_FILE).is_file())
    except OSError as error:
        raise ConfigError(f"{out} cannot be read: {error.strerror}") from error
    read = {folder: read_findings(folder) for folder in folders}
    documents = {folder: document for folder, document in read.items() if document is not None}
    return documents, [folder for folder in folders if folder not in documents]


def video_data(folder: Path, document: Json) -> Json:
    """What a video's page shows, from its folder and the `findings.json` in it."""
    scoring, frames = document["scoring"], frames_parquet.read_frames(folder / frames_parquet.FILE)
    known = any(distance is not None for distance in frames.distance_m)
    return {
        "video": document["video"],
        "video_sha256": document["video_sha256"],
        "duration_s": document["duration_s"],
        # Decisions belong to these intervals: found with other settings, the same video has another review.
        "findings_id": _findings_id(document),
        "scoring": {key: scoring[key] for key in ("pair", "pair_version", "operating_point", "enter", "leave")},
        "every_s": scoring["every_s"],
        "facts": _facts(document),
        "unscored": _spans(document["unscored"]),
        "corrupt": _spans(document["reading"]["corrupt_stretches"]),
        "lost": _spans(lost_stretches(document)),
        "frames": {
            "times_s": [round(each, 3) for each in frames.pts_s],
            "scores": [round(each, 4) for each in frames.score],
            "distances_m": list(frames.distance_m) if known else None,
        },
        "findings": [_finding(folder, number, each) for number, each in enumerate(document["findings"], start=1)],
        "classes": list(CLASS_NAMES.items()),
    }


def _finding(folder: Path, number: int, finding: Mapping[str, Any]) -> Json:
    bare = bare_name(finding["photo"])
    return {
        "number": number,
        "start_s": finding["start_s"],
        "end_s": finding["end_s"],
        "peak_s": finding["frame_pts_s"],
        "score": finding["score"],
        "mean_score": finding["mean_score"],
        "frames": finding["frames"],
        "code": finding["code"],
        "photo": _href(finding["photo"]),
        # Folders of an earlier release hold no pictures without evidence.
        "bare_photo": _href(bare) if (folder / bare).is_file() else None,
        "distance_m": finding["distance_m"],
        "distance_source": finding["distance_source"],
        "distance_confidence": finding["distance_confidence"],
        "box": finding.get("evidence_box"),
        "clock": finding.get("clock_from"),
    }


def _findings_id(document: Json) -> str:
    intervals = [[each["start_s"], each["end_s"]] for each in document["findings"]]
    identity = [document["video_sha256"], document["scoring"], intervals]
    return sha256_bytes(json.dumps(identity, sort_keys=True).encode())[:16]


def _facts(document: Json) -> list[tuple[str, str]]:
    """The summary of a video: what, its value. Not where the file lies: pages are passed on, also by the service."""
    reading, sampling, scoring = document["reading"], document["sampling"], document["scoring"]
    rate = f", {reading['frame_rate']:g} frames/s" if reading["frame_rate"] else ""
    return [
        ("Length", clock_time(document["duration_s"])),
        ("Frames scored", f"{sampling['scored']:,} of {reading['pictures']:,}, {reading['strategy']}"),
        *_gaps(sampling),
        (" / ".join(_FATES).capitalize(), " / ".join(f"{reading.get(key, 0):,}" for key in _FATES)),
        ("Picture", f"{reading['width']} x {reading['height']}, {reading['codec']}{rate}"),
        ("Pair", f"{scoring['pair']} {scoring['pair_version']} ({scoring['variant']}, {scoring['device']})"),
        ("Operating point", f"{scoring['operating_point']}: opens at {scoring['enter']:.3f}"),
    ]


def _gaps(sampling: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How far apart along the pipe they are, if that is known."""
    if sampling["longest_gap_m"] is None:
        return []
    return [("Apart along the pipe", f"{sampling['spacing_m']:.2f} m, at most {sampling['longest_gap_m']:.2f} m")]


def _spans(stretches: Iterable[Mapping[str, float]]) -> list[tuple[float, float]]:
    return [(each["start_s"], each["end_s"]) for each in stretches]


def index_data(out: Path, documents: Mapping[Path, Json]) -> Json:
    """What the page of a batch shows: a row for each scored folder and for each video that failed, worst first.

    Worst are videos that could not be scored, of which nothing is known; then those with the longest time in findings,
    then those with the highest peak.
    """
    rows = [_row(folder, document) for folder, document in documents.items()]
    rows += [_failed_row(failure) for failure in read_failures(out)]
    rows.sort(key=lambda row: (row["status"] != "failed", -row["found_s"], -(row["peak_score"] or 0.0), row["video"]))
    scorings = [document["scoring"] for document in documents.values()]
    scored_with = {f"{each['pair']} {each['pair_version']}, {each['operating_point']}" for each in scorings}
    return {"rows": rows, "scored_with": sorted(scored_with)}


def _row(folder: Path, document: Json) -> Json:
    reading, missing = document["reading"], missing_text(document)
    return {
        "video": document["video"],
        "folder": folder.name,
        "href": f"{_href(folder.name)}/{REPORT_FILE}",
        "status": "incomplete" if missing else "complete",
        "findings": len(document["findings"]),
        "found_s": round(sum(each["end_s"] - each["start_s"] for each in document["findings"]), 3),
        "peak_score": document["peak_score"],
        "duration_s": document["duration_s"],
        "frames": document["sampling"]["scored"],
        "corrupt": reading["corrupt"],
        "lost_s": seconds_in(lost_stretches(document)),
        "reason": missing,
    }


def _failed_row(failure: Mapping[str, Any]) -> Json:
    nothing = dict.fromkeys(("peak_score", "duration_s", "frames", "corrupt", "lost_s", "findings"))
    return {
        "video": Path(failure["video"]).name,
        "folder": failure["folder"],
        "href": None,
        "status": "failed",
        "found_s": 0.0,
        "reason": failure["reason"],
        **nothing,
    }


def _href(name: str) -> str:
    """A file name as a relative address; names are bytes, not necessarily of any text."""
    return quote(os.fsencode(name))
