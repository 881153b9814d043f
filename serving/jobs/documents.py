"""A job as callers see it: no path of this machine, and times as RFC 3339 has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from serving.jobs.job import Job

BASE = "/v1/videos"


def describe(job: Job, files: Sequence[str]) -> dict[str, Any]:
    """The document of a job; `files` are the names of what it has made."""
    here = f"{BASE}/{job.id}"
    progress = job.progress
    return {
        "id": job.id,
        "state": job.state,
        "video": {"name": job.name, "source": job.source, "bytes": job.n_bytes if job.source == "upload" else None},
        "pair": job.pair,
        "pair_version": job.pair_version,
        "settings": asdict(job.settings),
        "frames_done": job.frames,
        "progress": None if progress is None else round(progress, 4),
        "cancelling": job.cancel and not job.ended,
        "attempts": job.attempts,
        "created_at": _time(job.created_s),
        "started_at": _time(job.started_s),
        "ended_at": _time(job.ended_s),
        "reason": job.reason or None,
        "summary": job.summary,
        "result": f"{here}/result" if files else None,
        "files": {name: f"{here}/files/{quote(name)}" for name in files},
    }


def page_link(last_seq: int, limit: int, state: str | None) -> str:
    """Where the page after the one that ends with job `last_seq` is."""
    query = {"limit": limit, "before": last_seq} | ({"state": state} if state else {})
    return f"{BASE}?{urlencode(query)}"


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
