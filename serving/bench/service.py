"""A service to measure: started on a free loopback port and stopped again, or one that already runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from serving.errors import PipeprobeError

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Start:
    """From the command to readiness: seconds on the clock, and of a core, which other programs do not change much."""

    seconds: float
    cpu_s: float


@contextmanager
def own_service(arguments: list[str]) -> Iterator[tuple[str, Start]]:
    """`pipeprobe serve` with those options: its URL, and what it took until it was ready.

    Raises `PipeprobeError` with the end of its log if it does not become ready.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="pipeprobe-bench-") as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "serving", "serve", "--port", str(port), *arguments]
        began = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"PIPEPROBE_AUTH": "off"}
            )
        try:
            _wait(url, process, log)
            yield url, Start(seconds=time.monotonic() - began, cpu_s=_cpu_s(process.pid))
        finally:
            process.terminate()
            try:
                process.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def metrics_page(url: str, key: str = "") -> str:
    """The text of `/metrics`; raises `PipeprobeError` if it is not to be had."""
    headers = {"X-Api-Key": key} if key else {}
    try:
        response = httpx.get(f"{url}/metrics", headers=headers, timeout=30)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise PipeprobeError(f"{url}/metrics cannot be read: {error}") from error
    return response.text


def _cpu_s(pid: int) -> float:
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise PipeprobeError(f"the service did not become ready:\n{log.read_text(errors='replace')[-2000:]}")
