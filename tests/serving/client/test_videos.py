"""Whole inspections through the clients, against the real service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clients import CallClient
from support.live_service import live_service
from support.scripted_server import RESET, answer, problem, scripted_server
from support.tiny_pair import write_tiny_pair
from support.video_files import red_between, repeat, write_h264

from serving.client import (
    AsyncClient,
    BadAnswerError,
    Client,
    FrameRefusedError,
    Retries,
    ServiceError,
    UnavailableError,
    UnreadableError,
    VideoFailedError,
    VideoJob,
    VideoOptions,
)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_h264(tmp_path_factory.mktemp("videos") / "run.mp4", red_between(4, 7), seconds=10)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    write_tiny_pair(models)
    with live_service(models=models) as url:
        yield url


def test_findings_come_back_with_progress_on_the_way(call: CallClient, url: str, video: Path) -> None:
    seen: list[VideoJob] = []
    options = VideoOptions(every_s=0.5, every_m=0.1, operating_point="recall_95")
    result = call(url, "score_video", video, options=options, progress=seen.append)
    (finding,) = result.findings
    assert (finding.start_s, finding.end_s) == pytest.approx((4, 7), abs=0.6)
    assert finding.start_s <= finding.peak_s <= finding.end_s
    assert finding.score >= finding.mean_score > 0.9
    assert (result.job.state, result.job.progress, result.job.pair) == ("done", 1.0, "tiny")
    assert result.document["findings"][0]["operating_point"] == "recall_95"
    assert seen[-1] == result.job
    assert call(url, "video_job", result.job.id) == result.job
    call(url, "cancel_video", result.job.id)
    with pytest.raises(ServiceError) as caught:
        call(url, "video_job", result.job.id)
    assert caught.value.status == 404


def test_what_is_no_video_is_said(call: CallClient, url: str, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"no video at all" * 100)
    with pytest.raises((FrameRefusedError, VideoFailedError), match="video"):
        call(url, "score_video", tmp_path / "empty.mp4")
    for missing in (tmp_path / "missing.mp4", tmp_path, "a\0b"):
        with pytest.raises(UnreadableError):
            call(url, "score_video", missing)


def test_an_interrupted_call_cancels_its_job(url: str, video: Path, tmp_path: Path) -> None:
    long = repeat(video, tmp_path / "long.mp4", times=60)
    seen: list[VideoJob] = []

    async def interrupted() -> None:
        async with AsyncClient(url) as client:
            going = asyncio.Event()

            def progress(job: VideoJob) -> None:
                seen.append(job)
                going.set()

            task = asyncio.create_task(client.score_video(long, options=VideoOptions(every_s=0.04), progress=progress))
            await going.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(interrupted())
    with Client(url) as client:
        assert client.video_job(seen[0].id).state == "cancelled"


JOB = {
    "id": "j1",
    "state": "done",
    "frames_done": 0,
    "progress": None,
    "reason": None,
    "pair": "tiny",
    "pair_version": "1.0.0",
}


def test_a_repeated_upload_is_the_same_request(call: CallClient, video: Path) -> None:
    script = [RESET, problem(503), answer(202, JOB)]
    with scripted_server(script) as server:
        job = call(server.url, "submit_video", video, client={"retries": Retries(base_s=0.01)})
    assert job.id == "j1"
    requests = [request for _, request in server.received]
    keys = {line for each in requests for line in each.split(b"\r\n") if line.lower().startswith(b"idempotency-key")}
    assert (len(requests), len(keys)) == (3, 1)
    assert all(request.endswith(video.read_bytes()) for request in requests)
    assert all(b"name=run.mp4" in request.split(b"\r\n")[0] for request in requests)


def test_a_job_that_is_lost_from_sight_is_named(call: CallClient, video: Path) -> None:
    client = {"retries": Retries(max_retries=1, base_s=0.01)}
    with scripted_server([answer(202, JOB), problem(503)]) as server, pytest.raises(UnavailableError) as caught:
        call(server.url, "score_video", video, client=client)
    assert caught.value.__notes__ == ["video job j1"]
    script = [answer(202, JOB), answer(200, JOB | {"state": "failed", "reason": "torn"})]
    with scripted_server(script) as server, pytest.raises(VideoFailedError, match="torn"):
        call(server.url, "score_video", video)
    with scripted_server([answer(202, {"id": 1})]) as server, pytest.raises(BadAnswerError):
        call(server.url, "submit_video", video)
