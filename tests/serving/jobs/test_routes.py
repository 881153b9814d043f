"""Video jobs over HTTP: a real service of two workers that share one table."""

from __future__ import annotations

import json
import select
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.live_service import live_service
from support.tiny_pair import write_tiny_pair
from support.video_files import red_between, repeat, truncate, write_h264
from support.video_jobs import files_of, job_process, wait_for_end, wait_until_scoring

from serving.formats.frames_parquet import read_frames
from serving.inspections.sidecar import sidecar_of
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import score_videos
from serving.pairs.pair import load_pair
from serving.scorer import Scorer

MAX_VIDEO_BYTES = 6_000_000
STALL_S = 3


@dataclass(frozen=True)
class World:
    url: str
    models: Path
    videos: Path
    jobs: Path

    def post(self, video: str, **options: Any) -> httpx.Response:
        """Send one of the videos as a raw body."""
        content = (self.videos / video).read_bytes()
        query = {"name": video, **options.pop("params", {})}
        return httpx.post(f"{self.url}/v1/videos", content=content, params=query, timeout=30, **options)

    def submit(self, video: str, **options: Any) -> dict[str, Any]:
        response = self.post(video, **options)
        assert response.status_code == 202, response.text
        job: dict[str, Any] = response.json()
        return job

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=20)

    def leftovers(self) -> list[Path]:
        return list((self.jobs / "incoming").iterdir())


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound inspection, two that take their time, one that is none, and one that lies elsewhere."""
    folder = tmp_path_factory.mktemp("videos")
    write_h264(folder / "run.mp4", red_between(4, 7), seconds=10)
    repeat(folder / "run.mp4", folder / "long.mp4", times=60)
    repeat(folder / "run.mp4", folder / "middle.mp4", times=16)
    truncate(folder / "run.mp4", folder / "broken.mp4", share=0.5)
    (folder / "escape.mp4").symlink_to(write_h264(folder.parent / "secret.mp4", red_between(0, 1), seconds=1))
    return folder


@pytest.fixture(scope="module")
def world(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    models, jobs = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("state") / "jobs"
    write_tiny_pair(models)
    settings = {
        "jobs": jobs,
        "video_root": videos,
        "max_video_bytes": MAX_VIDEO_BYTES,
        "jobs_running": 2,
        "deadline_s": STALL_S,
        "job_nice": 3,
    }
    with live_service(models=models, workers=2, settings=settings) as url:
        yield World(url, models, videos, jobs)


def expected_files(world: World, video: Path, out: Path, settings: VideoSettings) -> dict[str, bytes]:
    """What `pipeprobe videos` makes of the video."""
    (result,) = score_videos([video], out, Scorer(load_pair(world.models / "tiny"), threads=1), settings)
    paths = [path for path in result.folder.rglob("*") if path.is_file()]
    return {path.relative_to(result.folder).as_posix(): path.read_bytes() for path in paths}


def without_place(findings: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(findings)
    del document["video_path"]
    return document


def assert_same(got: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert {name: data for name, data in got.items() if name != "findings.json"} == {
        name: data for name, data in expected.items() if name != "findings.json"
    }
    assert without_place(got["findings.json"]) == without_place(expected["findings.json"])


def test_distance_is_asked_for_as_of_the_command(world: World, tmp_path: Path) -> None:
    job = wait_for_end(world.url, world.submit("run.mp4", params={"distance": "none", "every_s": "1"}))
    assert (job["state"], job["settings"]["distance"]) == ("done", "none")
    expected = expected_files(world, world.videos / "run.mp4", tmp_path, VideoSettings(every_s=1.0, distance="none"))
    assert_same(files_of(world.url, job), expected)


def test_a_step_along_the_pipe_is_asked_for_as_of_the_command(world: World, tmp_path: Path) -> None:
    sidecar_of(world.videos / "metres.mp4").write_text("time_s,distance_m\n0,0\n10,1.2\n", encoding="utf-8")
    shutil.copy(world.videos / "run.mp4", world.videos / "metres.mp4")
    options = {"every_m": "0.25", "distance": "sidecar"}
    answer = httpx.post(f"{world.url}/v1/videos", params=options, json={"path": "metres.mp4"}, timeout=30)
    job = wait_for_end(world.url, answer.json())
    assert (job["state"], job["settings"]["every_m"]) == ("done", 0.25)
    assert job["summary"]["frames_scored"] < job["summary"]["frames_sampled"] / 2
    assert job["summary"]["longest_gap_m"] <= 0.25
    settings = VideoSettings(every_m=0.25, distance="sidecar")
    assert_same(files_of(world.url, job), expected_files(world, world.videos / "metres.mp4", tmp_path, settings))


def test_an_upload_gives_what_the_command_gives(world: World, tmp_path: Path) -> None:
    job = world.submit("run.mp4", params={"every_s": "0.2", "operating_point": "recall_95"})
    job = wait_for_end(world.url, job)
    assert (job["state"], job["progress"], job["attempts"], job["reason"]) == ("done", 1.0, 1, None)
    settings = VideoSettings(every_s=0.2, operating_point="recall_95")
    expected = expected_files(world, world.videos / "run.mp4", tmp_path, settings)
    got = files_of(world.url, job)
    assert_same(got, expected)
    assert world.get(job["result"]).json() == json.loads(got["findings.json"])
    assert json.loads(got["findings.json"])["video_path"] == "run.mp4"
    n_frames = len(read_frames(tmp_path / "run" / "frames.parquet").pts_s)
    assert job["frames_done"] == job["summary"]["frames_sampled"] == n_frames
    assert "pacp/PACP_Conditions.csv" in got
    assert job["summary"]["findings"] == 1
    assert str(world.jobs) not in json.dumps(job)
    # The policy of this service keeps no upload beyond its job.
    assert not list((world.jobs / "files" / job["id"]).glob("upload*"))
    assert world.leftovers() == []


def test_a_form_and_a_path_give_the_same(world: World, tmp_path: Path) -> None:
    with (world.videos / "run.mp4").open("rb") as file:
        upload = httpx.post(f"{world.url}/v1/videos", files={"file": ("run.mp4", file)}, timeout=30)
    path = httpx.post(f"{world.url}/v1/videos", json={"path": "./run.mp4"}, timeout=30)
    expected = expected_files(world, world.videos / "run.mp4", tmp_path, VideoSettings())
    for response in (upload, path):
        assert response.status_code == 202, response.text
        assert response.headers["location"] == f"/v1/videos/{response.json()['id']}"
        job = wait_for_end(world.url, response.json())
        assert job["video"]["name"] == "run.mp4"
        assert_same(files_of(world.url, job), expected)
    assert (world.videos / "run.mp4").exists()


def test_no_path_leads_out_of_the_root(world: World) -> None:
    answers = {}
    for path in ("../secret.mp4", "/etc/passwd", "escape.mp4", "missing.mp4"):
        response = httpx.post(f"{world.url}/v1/videos", json={"path": path}, timeout=20)
        answers[path] = (response.status_code, response.json()["detail"])
    assert answers["../secret.mp4"][0] == answers["/etc/passwd"][0] == 400
    assert answers["escape.mp4"] == answers["missing.mp4"]
    assert answers["missing.mp4"][0] == 422
    for body in (b"[]", b'{"path": 7}', b"{", b'{"path": "run.mp4", "every_s": 1}', b"[" * 60_000):
        response = httpx.post(
            f"{world.url}/v1/videos", content=body, headers={"content-type": "application/json"}, timeout=20
        )
        assert response.status_code == 400, body[:20]
    job = wait_for_end(world.url, world.submit("run.mp4"))
    for name in ("..%2f..%2fjobs.sqlite", "%2e%2e", "summary.json", "..%5cjobs.sqlite"):
        assert world.get(f"/v1/videos/{job['id']}/files/{name}").status_code == 404


def test_a_broken_video_fails_and_says_why(world: World) -> None:
    job = wait_for_end(world.url, world.submit("broken.mp4"))
    assert (job["state"], job["attempts"], job["files"]) == ("failed", 1, {})
    assert job["reason"].startswith("broken.mp4 is an MP4 or MOV file without its index")
    assert str(world.jobs) not in job["reason"]
    answer = world.get(f"/v1/videos/{job['id']}/result")
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:pipeprobe:problem:job-state"
    assert "without its index" in answer.json()["detail"]


def test_cancelling_ends_the_work_and_frees_the_space(world: World) -> None:
    job = world.submit("long.mp4", params={"every_s": "0.04"})
    progress = wait_until_scoring(world.url, job)
    assert 0 < progress["progress"] < 1
    process = job_process(world.jobs, job)
    assert process.nice() == psutil.Process().nice() + 3
    scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (process.ppid(), process.pid)]
    assert scores[1] == min(1000, scores[0] + 500)
    answer = httpx.delete(f"{world.url}/v1/videos/{job['id']}", timeout=30)
    # 202 where the machine is so busy that the service does not wait for the end.
    assert answer.status_code in (200, 202)
    shown = wait_for_end(world.url, job)
    assert not process.is_running()
    wait_until(lambda: not (world.jobs / "files" / job["id"]).exists())
    assert (shown["state"], shown["files"], shown["cancelling"]) == ("cancelled", {}, False)
    assert httpx.delete(f"{world.url}/v1/videos/{job['id']}", timeout=20).status_code == 204
    assert world.get(f"/v1/videos/{job['id']}").status_code == 404


def test_a_job_outlives_its_process(world: World, tmp_path: Path) -> None:
    job = world.submit("middle.mp4", params={"every_s": "0.04"})
    wait_until_scoring(world.url, job)
    process = job_process(world.jobs, job)
    process.kill()
    job = wait_for_end(world.url, job)
    assert (job["state"], job["attempts"]) == ("done", 2)
    expected = expected_files(world, world.videos / "middle.mp4", tmp_path, VideoSettings(every_s=0.04))
    assert_same(files_of(world.url, job), expected)


def test_two_workers_run_no_job_twice(world: World) -> None:
    before = counts(world)
    jobs = [httpx.post(f"{world.url}/v1/videos", json={"path": "run.mp4"}, timeout=30).json() for _ in range(8)]
    most = 0
    for job in jobs:
        while world.get(f"/v1/videos/{job['id']}").json()["state"] in ("queued", "running"):
            states = [each["state"] for each in world.get("/v1/videos?limit=8").json()["jobs"]]
            most = max(most, states.count("running"))
            time.sleep(0.05)
        done = world.get(f"/v1/videos/{job['id']}").json()
        assert (done["state"], done["attempts"]) == ("done", 1)
        assert [path.name for path in (world.jobs / "files" / job["id"]).glob("claim-*")] == ["claim-1"]
    assert 1 <= most <= 2
    after = counts(world)
    assert after["begun"] - before["begun"] == after["done"] - before["done"] == len(jobs)
    assert after["crashed"] == before["crashed"]


def counts(world: World) -> dict[str, float]:
    """How many jobs were begun, and how their processes ended, by all workers together."""
    found = {"begun": 0.0, "done": 0.0, "crashed": 0.0}
    for family in text_string_to_metric_families(world.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "pipeprobe_video_job_wait_seconds_count":
                found["begun"] = sample.value
            elif sample.name == "pipeprobe_video_job_seconds_count":
                found[sample.labels["outcome"]] = sample.value
    return found


def test_a_repeated_request_makes_one_job(world: World) -> None:
    headers = {"Idempotency-Key": "inspection-17/run-3"}
    first = world.post("run.mp4", headers=headers)
    again = world.post("run.mp4", headers=headers)
    assert first.json()["id"] == again.json()["id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    other = world.post("run.mp4", headers=headers, params={"every_s": "1"})
    assert other.status_code == 422
    assert other.json()["type"] == "urn:pipeprobe:problem:idempotency-key-reused"
    assert world.post("run.mp4", headers={"Idempotency-Key": "x" * 201}).status_code == 400
    wait_for_end(world.url, first.json())
    # The second video was not kept beside the first.
    known = {job["id"] for job in world.get("/v1/videos?limit=500").json()["jobs"]}
    assert {path.name for path in (world.jobs / "files").iterdir()} <= known


def test_too_large_a_video_is_refused_while_it_streams(world: World) -> None:
    address = httpx.URL(world.url)
    with socket.create_connection((address.host, address.port), timeout=30) as connection:
        connection.sendall(b"POST /v1/videos HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk, sent = b"%x\r\n" % 2**16 + bytes(2**16) + b"\r\n", 0
        while not select.select([connection], [], [], 0)[0]:
            connection.sendall(chunk)
            sent += 2**16
            assert sent < 50 * MAX_VIDEO_BYTES
        assert connection.recv(2000).startswith(b"HTTP/1.1 413")
        assert sent > MAX_VIDEO_BYTES
    declared = httpx.post(f"{world.url}/v1/videos", content=bytes(MAX_VIDEO_BYTES + 1), timeout=60)
    assert declared.status_code == 413
    assert declared.json()["type"] == "urn:pipeprobe:problem:body-too-large"
    assert world.leftovers() == []


@pytest.mark.parametrize("ending", ["close", "stall"])
def test_an_upload_that_breaks_off_leaves_nothing(ending: str, world: World) -> None:
    address = httpx.URL(world.url)
    with socket.create_connection((address.host, address.port), timeout=30) as connection:
        connection.sendall(b"POST /v1/videos HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n" + bytes(2_500_000))
        wait_until(lambda: world.leftovers() != [])
        if ending == "stall":
            answer = b""
            while b"}" not in answer and (part := connection.recv(2000)):  # head and body may come apart
                answer += part
            assert answer.startswith(b"HTTP/1.1 504")
            assert b"urn:pipeprobe:problem:deadline-exceeded" in answer
    wait_until(lambda: world.leftovers() == [])


def test_a_slow_path_meets_the_deadline(world: World) -> None:
    address = httpx.URL(world.url)
    head = b"POST /v1/videos HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n"
    with socket.create_connection((address.host, address.port), timeout=30) as connection:
        connection.sendall(head + b'{"path":')
        assert connection.recv(2000).startswith(b"HTTP/1.1 504")


def wait_until(true: Any) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_jobs_are_listed_page_by_page(world: World) -> None:
    jobs = [wait_for_end(world.url, world.submit("broken.mp4"))["id"] for _ in range(3)]
    seen: list[str] = []
    path: str | None = "/v1/videos?limit=2&state=failed"
    while path is not None:
        page = world.get(path).json()
        assert len(page["jobs"]) <= 2
        assert all(job["state"] == "failed" for job in page["jobs"])
        seen += [job["id"] for job in page["jobs"]]
        path = page["next"]
    assert seen[:3] == jobs[::-1]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"speed": "fast"}, 400),
        ({"every_s": "often"}, 400),
        ({"every_s": "nan"}, 400),
        ({"every_m": "0"}, 400),
        ({"every_m": "-1"}, 400),
        ({"every_m": "0.25 ft"}, 400),
        ({"every_m": "0.25", "distance": "none"}, 400),
        ({"join_gap_s": "-1"}, 400),
        ({"pair": "missing"}, 404),
        ({"operating_point": "missing"}, 404),
        ({"distance": "guessed"}, 400),
    ],
)
def test_refuses_wrong_options_before_the_video_is_sent(query: dict[str, str], status: int, world: World) -> None:
    assert world.post("run.mp4", params=query).status_code == status
    assert world.leftovers() == []


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "before=-1", "state=lost", "page=2"])
def test_refuses_wrong_pages(query: str, world: World) -> None:
    assert world.get(f"/v1/videos?{query}").status_code == 400


def test_other_mistakes_are_problems(world: World) -> None:
    empty = httpx.post(f"{world.url}/v1/videos", content=b"", timeout=20)
    unknown = world.get("/v1/videos/" + "0" * 32)
    method = httpx.put(f"{world.url}/v1/videos", timeout=20)
    assert (empty.status_code, unknown.status_code, method.status_code) == (400, 404, 405)
    for answer in (empty, unknown, method):
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert answer.json()["request_id"]
    assert unknown.json()["type"] == "urn:pipeprobe:problem:job-not-found"
