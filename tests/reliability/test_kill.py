"""Processes killed under load: answers are right or fail cleanly, and the service is back. `make test-kill`."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from reliability import scale
from reliability.frames import KnownFrame, known_frames, models_for, served
from support.live_service import LiveService, free_port
from support.video_files import red_between, repeat, write_h264

from serving.client import Client, Retries, VideoFinding, VideoOptions

CALLERS = 4
BY_CLIENT = "right, by serving.client"
# What is promised of a machine that starts the service within half of it; a slower one gets twice its own start.
BACK_S = 10.0
PATIENCE_S = 60.0
PATIENT = Retries(max_retries=1000, base_s=0.05, cap_s=0.5)


class Load:
    """Callers that never stop, and what became of each request: right, broken off, or refused with a problem."""

    def __init__(self, url: str, frames: list[KnownFrame]) -> None:
        self._url = url
        self._frames = frames
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.right_at = 0.0
        self.kills = 0
        self.threads = [
            threading.Thread(target=self._call if index else self._call_patiently, args=(index,), daemon=True)
            for index in range(CALLERS + 1)
        ]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def is_under_way(self) -> bool:
        return self.counts["right"] > 20 and self.counts[BY_CLIENT] > 0

    def stop(self) -> None:
        self._stop.set()
        for thread in self.threads:
            thread.join(timeout=PATIENCE_S)
            assert not thread.is_alive(), "a request hangs"

    def _call(self, index: int) -> None:
        """As a simple program does: one attempt, a connection that is kept."""
        draw = random.Random(index)
        with httpx.Client(base_url=self._url, timeout=PATIENCE_S) as client:
            while not self._stop.is_set():
                frame = draw.choice(self._frames)
                started_at = time.monotonic()
                try:
                    response = client.post("/v1/score", content=frame.data)
                except httpx.TransportError as error:
                    self._note(f"broken: {type(error).__name__}")
                    time.sleep(0.02)
                    continue
                self._judge(response, frame, started_at)

    def _judge(self, response: httpx.Response, frame: KnownFrame, started_at: float) -> None:
        if response.status_code == 200 and frame.is_scored_by(response.json()["score"]):
            self._note("right", started_at)
        elif response.headers.get("content-type") == "application/problem+json" and response.status_code == 503:
            self._note("refused: 503")
        else:
            self.faults.append(f"{response.status_code} {response.text[:300]}")

    def _call_patiently(self, index: int) -> None:
        """As the project's client does: what fails is tried again until it is right."""
        draw = random.Random(index)
        with Client(self._url, deadline_s=2 * PATIENCE_S, retries=PATIENT) as client:
            while not self._stop.is_set():
                frame = draw.choice(self._frames)
                try:
                    right = frame.is_scored_by(client.score(frame.data).score)
                except Exception as error:
                    self.faults.append(f"the client gave up: {error!r}")
                else:
                    self._note(BY_CLIENT) if right else self.faults.append("a wrong score")

    def _note(self, what: str, started_at: float = 0.0) -> None:
        with self._lock:
            self.counts[what] += 1
            self.right_at = max(self.right_at, started_at)


@contextmanager
def load_on(url: str, frames: list[KnownFrame]) -> Iterator[Load]:
    load = Load(url, frames)
    load.start()
    try:
        yield load
    finally:
        load.stop()
    print(f"\n{dict(sorted(load.counts.items()))}")
    assert load.faults == []
    assert load.counts["right"] > 0
    assert load.counts[BY_CLIENT] > 0


def wait_for(condition: Callable[[], bool], what: str, limit_s: float) -> float:
    """Seconds until `condition` holds; fails after `limit_s`."""
    started_at = time.monotonic()
    while not condition():
        assert time.monotonic() - started_at < limit_s, f"{what}: not within {limit_s:g} s"
        time.sleep(0.02)
    return time.monotonic() - started_at


def limit_for(service: LiveService) -> float:
    """Within how many seconds it must be back on this machine."""
    return max(BACK_S, 2 * service.start_s)


def ready_workers(service: LiveService) -> int:
    """How many workers have become ready since the start."""
    return service.log.read_text().count("Service pipeprobe initialized")


def kill_worker(service: LiveService, load: Load, limit_s: float) -> None:
    """Kill one of the workers; there must be as many again, and right answers to what is asked from now on."""
    before = service.workers()
    # One that is only starting could not stand in for the victim.
    wait_for(lambda: ready_workers(service) >= len(before) + load.kills, "all workers ready", PATIENCE_S)
    load.kills += 1
    victim = random.Random(load.counts["right"]).choice(before)
    victim.kill()
    killed_at = time.monotonic()
    wait_for(lambda: load.right_at > killed_at, "right answers", limit_s)
    answered_s = time.monotonic() - killed_at
    wait_for(lambda: len([w for w in service.workers() if w != victim]) == len(before), "a new worker", limit_s)
    print(f"worker of {len(before)} killed: right answers after {answered_s:.1f} s (a start: {service.start_s:.1f} s)")


def kill_everything(service: LiveService) -> None:
    """Supervisor, workers and the processes of their video jobs, so fast that none sees another's end."""
    supervisor = psutil.Process(service.process.pid)
    for process in [supervisor, *supervisor.children(recursive=True)]:
        process.kill()


def kill_service(service: LiveService, load: Load, models: Path, limit_s: float, *, supervisor_only: bool) -> None:
    """Kill the service, start it again as a supervisor of services does, and wait for right answers."""
    workers = service.workers()
    if supervisor_only:
        os.kill(service.process.pid, signal.SIGKILL)
    else:
        kill_everything(service)
    killed_at = time.monotonic()
    service.process.wait()
    assert psutil.wait_procs(workers, timeout=limit_s)[1] == [], "workers outlive their supervisor"
    with served(models, port=httpx.URL(service.url).port):
        wait_for(lambda: load.right_at > killed_at, "right answers", limit_s)
        back_s = time.monotonic() - killed_at
        what = "the supervisor" if supervisor_only else "everything"
        print(f"{what} killed and started again: right answers after {back_s:.1f} s (a start: {service.start_s:.1f} s)")
        load.stop()  # before the service does, which is no fault of anybody
        assert back_s < limit_s


def is_scoring(url: str) -> bool:
    """Whether a job runs that has scored something."""
    page = httpx.get(f"{url}/v1/videos", params={"state": "running"}, timeout=PATIENCE_S).json()
    return any(job["frames_done"] > 0 for job in page["jobs"])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return models_for(tmp_path)


@pytest.fixture
def frames(models: Path) -> list[KnownFrame]:
    return known_frames(models)


def test_a_killed_worker_is_missed_by_nobody_for_long(models: Path, frames: list[KnownFrame]) -> None:
    with served(models) as service, load_on(service.url, frames) as load:
        wait_for(load.is_under_way, "load", PATIENCE_S)
        kill_worker(service, load, PATIENCE_S)


def test_a_killed_service_starts_again(models: Path, frames: list[KnownFrame]) -> None:
    with served(models) as service, load_on(service.url, frames) as load:
        wait_for(load.is_under_way, "load", PATIENCE_S)
        kill_service(service, load, models, PATIENCE_S, supervisor_only=False)


@pytest.mark.kill
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_killed_again_and_again(models: Path, frames: list[KnownFrame], workers: int) -> None:
    with served(models, workers=workers) as service, load_on(service.url, frames) as load:
        wait_for(load.is_under_way, "load", PATIENCE_S)
        for round_ in range(scale.ROUNDS):
            wait_for(lambda n=20 * (round_ + 1): load.counts["right"] > n, "load", PATIENCE_S)  # type: ignore[misc]
            kill_worker(service, load, limit_for(service))


@pytest.mark.kill
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("supervisor_only", [True, False])
@pytest.mark.parametrize("round_", range(scale.ROUNDS))
def test_services_killed_again_and_again(
    models: Path, frames: list[KnownFrame], round_: int, supervisor_only: bool
) -> None:
    with served(models) as service, load_on(service.url, frames) as load:
        wait_for(load.is_under_way, "load", PATIENCE_S)
        kill_service(service, load, models, limit_for(service), supervisor_only=supervisor_only)


@pytest.mark.kill
@pytest.mark.timeout(1800)
def test_no_video_job_is_lost(models: Path, tmp_path: Path) -> None:
    """Callers wait for their videos while the service is killed under them, again and again."""
    video = repeat(write_h264(tmp_path / "short.mp4", red_between(4, 7), seconds=10), tmp_path / "run.mp4", times=16)
    settings = {"jobs": tmp_path / "jobs", "job_lease_s": 2, "job_attempts": 100}
    port = free_port()

    def findings() -> tuple[VideoFinding, ...]:
        with Client(f"http://127.0.0.1:{port}", deadline_s=2 * PATIENCE_S, retries=PATIENT) as client:
            return client.score_video(video, options=VideoOptions(every_s=0.04)).findings

    with ExitStack() as services, ThreadPoolExecutor(3) as callers:
        service = services.enter_context(served(models, port=port, settings=settings))
        undisturbed = findings()
        waiting = [callers.submit(findings) for _ in range(3)]
        for _ in range(scale.ROUNDS):
            wait_for(lambda url=service.url: is_scoring(url), "a job runs", PATIENCE_S)  # type: ignore[misc]
            kill_everything(service)
            service.process.wait()
            service = services.enter_context(served(models, port=port, settings=settings))
        assert [each.result(timeout=600) for each in waiting] == [undisturbed] * 3
        jobs = httpx.get(f"{service.url}/v1/videos", timeout=PATIENCE_S).json()["jobs"]
    print(f"\n{scale.ROUNDS} kills; attempts of the jobs: {[job['attempts'] for job in jobs]}")
    assert [job["state"] for job in jobs] == ["done"] * 4
    assert max(job["attempts"] for job in jobs) > 1, "no kill hit a job that ran"
