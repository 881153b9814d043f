"""Killed processes of the service: workers are replaced, and none is left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from support.live_service import LiveService, live_processes
from support.tiny_pair import write_tiny_pair

# BentoML alone looks for dead workers every ten seconds, and never ends those whose supervisor has gone.
LIMIT_S = 10.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[LiveService]:
    write_tiny_pair(tmp_path)
    with live_processes(models=tmp_path) as service:
        yield service


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {LIMIT_S:g} s"
        time.sleep(0.05)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_a_killed_worker_is_replaced_at_once(service: LiveService) -> None:
    (before,) = service.workers()
    before.kill()
    wait_for(lambda: [worker.pid for worker in service.workers()] not in ([], [before.pid]), "another worker")
    wait_for(lambda: is_ready(service.url), "the service is ready again")


def test_workers_end_with_their_supervisor_and_free_the_port(service: LiveService, tmp_path: Path) -> None:
    workers = service.workers()
    os.kill(service.process.pid, signal.SIGKILL)
    service.process.wait(timeout=LIMIT_S)
    assert psutil.wait_procs(workers, timeout=LIMIT_S)[1] == []
    port = httpx.URL(service.url).port
    with live_processes(models=tmp_path, port=port) as again:
        assert is_ready(again.url)
