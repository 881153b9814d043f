"""Video jobs of a service that is killed and started again, and of services that take few or none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from support.live_service import (
    ROOT,
    clean_environment,
    free_port,
    live_processes,
    live_service,
    started,
    wait_until_ready,
)
from support.tiny_pair import write_tiny_pair
from support.video_files import red_between, repeat, write_h264
from support.video_jobs import files_of, job_process, wait_for_end, wait_until_scoring

EVERY_S = {"every_s": "0.04"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_pair(folder)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inspection that takes some seconds."""
    folder = tmp_path_factory.mktemp("videos")
    short = write_h264(folder / "short.mp4", red_between(4, 7), seconds=10)
    return repeat(short, folder / "run.mp4", times=16)


@contextmanager
def service(models: Path, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = clean_environment(folder) | {"PIPEPROBE_JOB_LEASE_S": "2", "PIPEPROBE_MAX_JOBS": "1"}
    command = [sys.executable, "-m", "serving", "serve", "--port", str(port), "--models", str(models)]
    with started(command, cwd=ROOT, env=environment, log=folder / "log") as process:
        wait_until_ready(url, process, log=folder / "log")
        yield url, process


def submit(url: str, video: Path) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/videos", content=video.read_bytes(), params={"name": video.name, **EVERY_S}, timeout=30
    )


def test_a_job_survives_the_kill_of_the_whole_service(models: Path, video: Path, tmp_path: Path) -> None:
    with service(models, tmp_path) as (url, process):
        job = submit(url, video).json()
        wait_until_scoring(url, job)
        working = job_process(tmp_path / "jobs", job)
        everything = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        killed = [each for each in everything if each != working]
        for each in killed:
            os.kill(each.pid, signal.SIGKILL)
        # The process of the job was not killed, and ends with the service all the same.
        assert psutil.wait_procs([*killed, working], timeout=20)[1] == []
    with service(models, tmp_path) as (url, _):
        again = wait_until_scoring(url, job)
        assert again["attempts"] == 2
        # As many jobs wait or run as this service takes.
        refused = submit(url, video)
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:pipeprobe:problem:too-many-jobs"
        assert int(refused.headers["retry-after"]) >= 1
        done = wait_for_end(url, job)
        assert (done["state"], done["attempts"]) == ("done", 2)
        survived = files_of(url, done)
        undisturbed = wait_for_end(url, submit(url, video).json())
        assert undisturbed["attempts"] == 1
        assert files_of(url, undisturbed) == survived
    assert list((tmp_path / "jobs" / "incoming").iterdir()) == []


def test_a_job_survives_the_kill_of_its_worker(models: Path, video: Path, tmp_path: Path) -> None:
    with service(models, tmp_path) as (url, process):
        job = submit(url, video).json()
        wait_until_scoring(url, job)
        working = job_process(tmp_path / "jobs", job)
        worker = working.parent()
        assert worker is not None
        assert worker.pid != process.pid
        worker.kill()
        assert psutil.wait_procs([worker, working], timeout=20)[1] == []
        wait_until_ready(url, process)
        done = wait_for_end(url, job)
        assert (done["state"], done["attempts"]) == ("done", 2)


def test_an_orderly_stop_gives_the_job_back_and_leaves_no_process(models: Path, video: Path, tmp_path: Path) -> None:
    with service(models, tmp_path) as (url, process):
        job = submit(url, video).json()
        wait_until_scoring(url, job)
        working = job_process(tmp_path / "jobs", job)
        process.send_signal(signal.SIGINT)
        process.wait(20)
        assert psutil.wait_procs([working], timeout=5)[1] == []
    with service(models, tmp_path) as (url, _):
        done = wait_for_end(url, job)
        assert (done["state"], done["attempts"]) == ("done", 1)


def test_limits_of_space_and_time_and_an_unset_root(models: Path, video: Path) -> None:
    with live_service(models=models, settings={"max_jobs_bytes": 2**20, "job_timeout_s": 1}) as url:
        slow = submit(url, video).json()
        large = httpx.post(f"{url}/v1/videos", content=bytes(2**20 + 1), timeout=30)
        assert large.status_code == 507
        assert large.json()["type"] == "urn:pipeprobe:problem:storage-full"
        assert int(large.headers["retry-after"]) >= 1
        path = httpx.post(f"{url}/v1/videos", json={"path": video.name}, timeout=30)
        assert path.status_code == 400
        assert "PIPEPROBE_VIDEO_ROOT" in path.json()["detail"]
        failed = wait_for_end(url, slow)
        assert (failed["state"], failed["reason"]) == ("failed", "it was not done within the 1 s allowed")


def test_a_decoder_that_hangs_costs_a_job_a_piece_of_the_video(models: Path, video: Path) -> None:
    with live_processes(models=models, settings={"job_hang_s": 5}) as service:
        job = wait_until_scoring(service.url, submit(service.url, video).json())
        below = psutil.Process(service.process.pid).children(recursive=True)
        (decoder,) = [each for each in below if "serving.inspections.decoder_child" in each.cmdline()]
        decoder.suspend()
        done = wait_for_end(service.url, job)
        assert (done["state"], done["attempts"]) == ("done", 1)
        result = httpx.get(service.url + done["result"], timeout=20).json()
        (lost,) = result["reading"]["lost_stretches"]
        assert 0 < lost["end_s"] - lost["start_s"] < result["duration_s"] / 2


def test_a_service_without_jobs_says_so(models: Path, video: Path) -> None:
    with live_service(models=models, settings={"jobs": "off"}) as url:
        for answer in (submit(url, video), httpx.get(f"{url}/v1/videos/x", timeout=20)):
            assert answer.status_code == 404
            assert answer.json()["type"] == "urn:pipeprobe:problem:jobs-off"
            assert "PIPEPROBE_JOBS is off" in answer.json()["detail"]
