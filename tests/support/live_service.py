"""The real service in processes of its own, on a free loopback port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class LiveService:
    """A service that runs: its URL, the process that supervises its workers, its log, and how long it took to start."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    start_s: float

    def workers(self) -> list[psutil.Process]:
        """The worker processes that live, in the order of their ids."""
        found = [child for child in psutil.Process(self.process.pid).children() if _lives(child)]
        return sorted(found, key=lambda child: child.pid)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def live_service(
    *,
    models: Path | None = None,
    bento: Path | None = None,
    workers: int = 1,
    settings: Mapping[str, object] | None = None,
) -> Iterator[str]:
    """Serve the pairs under `models`, or a built Bento, and yield the URL once it is ready.

    `settings` become PIPEPROBE_* variables: {"max_queue": 2}. A Bento is served from a folder and an
    environment that know nothing of the source tree.
    """
    with live_processes(models=models, bento=bento, workers=workers, settings=settings) as service:
        yield service.url


@contextmanager
def live_processes(
    *,
    models: Path | None = None,
    bento: Path | None = None,
    workers: int = 1,
    settings: Mapping[str, object] | None = None,
    port: int | None = None,
) -> Iterator[LiveService]:
    """As `live_service`, for tests that look at the processes or choose the port."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="live-service-") as name:
        folder = Path(name)
        environment = clean_environment(folder) | {"PIPEPROBE_WORKERS": str(workers)}
        environment |= {f"PIPEPROBE_{key.upper()}": str(value) for key, value in (settings or {}).items()}
        if bento is None:
            command = [sys.executable, "-m", "serving", "serve", "--port", str(port)]
            command += ["--models", str(models)] if models else []
        else:
            bentoml = [sys.executable, "-m", "bentoml", "serve", str(bento)]
            command = [*bentoml, "--host", "127.0.0.1", "--port", str(port)]
        cwd = ROOT if bento is None else folder
        with started(command, cwd=cwd, env=environment, log=folder / "log") as process:
            started_at = time.monotonic()
            wait_until_ready(url, process, log=folder / "log")
            yield LiveService(url=url, process=process, log=folder / "log", start_s=time.monotonic() - started_at)


@contextmanager
def started(command: list[str], *, cwd: Path, env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, its output in `log`; stopped, with its children, on leaving."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            stop_process(process)


def clean_environment(home: Path) -> dict[str, str]:
    """This process's environment without what points at a source tree, pairs, jobs, or a BentoML home in use."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PIPEPROBE_", "BENTOML_", "PROMETHEUS_")) and key != "PYTHONPATH"
    }
    ours = {"BENTOML_HOME": str(home / "bentoml"), "PIPEPROBE_JOBS": str(home / "jobs")}
    return kept | ours | {"BENTOML_DO_NOT_TRACK": "True"}


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, process: subprocess.Popen[Any], *, log: Path | None = None) -> None:
    """Wait, not for ever, until `/readyz` says 200; fails with the end of `log` if it does not."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    output = log.read_text(errors="replace")[-4000:] if log else ""
    raise AssertionError(f"the service did not become ready (exit code {process.poll()}):\n{output}")


def stop_process(process: subprocess.Popen[Any]) -> None:
    """Ask a process to end, by its id; kill it, and the group it leads, if it does not."""
    leads_group = process.poll() is None and os.getpgid(process.pid) == process.pid
    process.terminate()
    try:
        process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        if leads_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait(timeout=STOP_TIMEOUT_S)
