"""Video jobs of a running service: sent, waited for, and their processes found."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

TIMEOUT_S = 90.0
ENDED = ("done", "failed", "cancelled")


def wait_for(url: str, job: dict[str, Any], until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask for a job until it is as it should be; fails, saying how it is, if it does not become so."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        job = httpx.get(f"{url}/v1/videos/{job['id']}", timeout=20).json()
        if until(job):
            return job
        time.sleep(0.1)
    raise AssertionError(f"the job did not get there: {job}")


def wait_for_end(url: str, job: dict[str, Any]) -> dict[str, Any]:
    return wait_for(url, job, lambda each: each["state"] in ENDED)


def wait_until_scoring(url: str, job: dict[str, Any]) -> dict[str, Any]:
    """Until its process has scored more than the first frame, which lies at 0 s, and is not done."""
    return wait_for(url, job, lambda each: each["state"] == "running" and bool(each["progress"]))


def job_process(folder: Path, job: dict[str, Any]) -> psutil.Process:
    """The one process of a running job, whoever is its parent; `folder` is the service's folder of jobs."""
    (process,) = _processes_under(folder / "files" / job["id"])
    return process


def _processes_under(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            is_job = "serving.jobs.worker" in (process.info["cmdline"] or [])
            if is_job and any(Path(file.path).is_relative_to(folder) for file in process.open_files()):
                found.append(process)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return found


def files_of(url: str, job: dict[str, Any]) -> dict[str, bytes]:
    """What a job that is done has made."""
    return {name: httpx.get(url + link, timeout=20).raise_for_status().content for name, link in job["files"].items()}
