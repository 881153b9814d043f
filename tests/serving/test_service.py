"""The scoring service over HTTP: a real BentoML server on loopback."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click.testing
import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.live_service import ROOT, clean_environment, free_port, live_service, started, wait_until_ready
from support.tiny_pair import grey_frames, random_frames, red_frames, write_tiny_pair

from serving.commands.serve import command as serve
from serving.errors import ConfigError, PairNotFoundError, PipeprobeError
from serving.pairs.pair import find_pair
from serving.scorer import BATCH_ATOL, Scorer

SIZE = 32
SETTINGS = {
    "pair": "tiny,second",
    "max_frame_bytes": 200_000,
    "max_body_bytes": 400_000,
    "max_bytes_held": 2**20,
    "max_pixels": 1_000_000,
    "max_batch_frames": 8,
    "max_queue": 64,
    "max_requests": 40,
    "deadline_s": 3,
}
FRAMES = random_frames(24, SIZE, seed=5)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_pair(folder, name="second", version="2.1.0")
    write_tiny_pair(folder, name="tiny")
    return folder


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[str]:
    with live_service(models=models, settings=SETTINGS) as url:
        yield url


@pytest.fixture
def client(service: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, timeout=10) as client:
        yield client


@pytest.fixture(scope="module")
def expected(models: Path) -> NDArray[np.float32]:
    return Scorer(find_pair(models, "tiny"), threads=1).score(FRAMES).score


def encoded(frame: NDArray[np.uint8], format_: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, format_, **({"quality": 95} if format_ == "JPEG" else {}))
    return data.getvalue()


RED, GREY = encoded(red_frames(1)[0]), encoded(grey_frames(1)[0])


def files(*payloads: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("files", (f"{i}.png", data, "image/png")) for i, data in enumerate(payloads)]


# What comes out.


@pytest.mark.parametrize("content_type", ["image/png", "image/jpg", "application/octet-stream", None])
def test_scores_a_raw_body_of_any_content_type(client: httpx.Client, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = client.post("/v1/score", content=encoded(red_frames(1)[0], "JPEG"), headers=headers)
    answer = response.json()
    assert response.status_code == 200
    assert answer["verdict"] == "defect"
    assert answer["score"] > 0.9
    assert (answer["operating_point"], answer["threshold"]) == ("balanced", 0.5)
    assert (answer["pair"], answer["pair_version"]) == ("tiny", "1.0.0")
    assert "evidence" not in answer
    assert set(answer["timings_ms"]) == {"read", "decode", "queue", "infer", "total"}
    parts = [value for stage, value in answer["timings_ms"].items() if stage != "total"]
    assert min(parts) >= 0
    assert sum(parts) <= answer["timings_ms"]["total"] + 0.01


def test_names_pair_version_and_request_in_the_headers(client: httpx.Client) -> None:
    for body in (RED, b"no image"):
        response = client.post("/v1/score?pair=second", content=body)
        assert response.headers["x-pipeprobe-pair"] == "second"
        assert response.headers["x-pipeprobe-pair-version"] == "2.1.0"
        assert response.headers["x-request-id"] == response.json()["request_id"]


def test_keeps_a_harmless_request_id_and_replaces_others(client: httpx.Client) -> None:
    for given, kept in (("frame-7:a/b", True), ("<script>", False), ("x" * 500, False), ("", False)):
        answer = client.post("/v1/score", content=RED, headers={"x-request-id": given}).json()
        assert (answer["request_id"] == given) is kept
        assert answer["request_id"]


def test_scores_a_multipart_file_at_the_operating_point_asked_for(client: httpx.Client) -> None:
    answer = client.post("/v1/score?operating_point=recall_99", files={"file": ("a.png", GREY, "image/png")}).json()
    assert (answer["verdict"], answer["operating_point"], answer["threshold"]) == ("normal", "recall_99", 0.1)


def test_evidence_averages_to_the_logit(client: httpx.Client) -> None:
    answer = client.post("/v1/score?evidence=true", content=encoded(FRAMES[3])).json()
    assert answer["evidence"]["shape"] == [4, 4]
    assert np.mean(answer["evidence"]["values"]) == pytest.approx(answer["logit"], abs=1e-4)


def test_batch_keeps_order_and_bad_frames_fail_alone(client: httpx.Client, expected: NDArray[np.float32]) -> None:
    good = [encoded(frame) for frame in FRAMES[:4]]
    response = client.post("/v1/score/batch", files=files(good[0], b"junk", good[1], good[2][:300], good[3]))
    answer = response.json()
    assert response.status_code == 200
    assert (answer["n_frames"], answer["n_failed"]) == (5, 2)
    results = answer["results"]
    assert [(result["index"], result["name"]) for result in results] == [(i, f"{i}.png") for i in range(5)]
    assert [results[i]["score"] for i in (0, 2, 4)] == pytest.approx(
        expected[[0, 1, 3]].tolist(), abs=BATCH_ATOL["fp32"]
    )
    assert (results[1]["error"]["status"], results[3]["error"]["status"]) == (415, 422)
    assert results[3]["error"]["detail"].startswith("frame 3 is a PNG file that is cut short")


def test_every_response_belongs_to_its_request(client: httpx.Client, expected: NDArray[np.float32]) -> None:
    payloads = [encoded(frame) for frame in FRAMES]

    def ask(step: int) -> None:
        index = step % len(payloads)
        if step % 5 == 4:
            bad = client.post("/v1/score", content=b"junk %d" % step)
            assert bad.status_code == 415
            assert f"junk {step}"[:8] in bad.json()["detail"]
            return
        if step % 5 == 3:
            answer = client.post("/v1/score/batch", files=files(payloads[index], b"x", payloads[index - 1])).json()
            results = answer["results"]
            assert "error" in results[1]
            got, want = [results[0]["score"], results[2]["score"]], [expected[index], expected[index - 1]]
        else:
            name = f"step-{step}"
            answer = client.post("/v1/score", content=payloads[index], headers={"x-request-id": name}).json()
            assert answer["request_id"] == name
            got, want = [answer["score"]], [expected[index]]
        assert got == pytest.approx([float(value) for value in want], abs=BATCH_ATOL["fp32"])

    with ThreadPoolExecutor(12) as pool:
        for result in [pool.submit(ask, step) for step in range(150)]:
            result.result(timeout=30)


# What is refused.

BIG_PICTURE = encoded(np.zeros((1001, 1001, 3), np.uint8))
CASES: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("POST", "/v1/score", {"content": b""}, 422, "bad-frame"),
    ("POST", "/v1/score", {"content": b"hello"}, 415, "not-an-image"),
    ("POST", "/v1/score", {"json": {"image": "x"}}, 415, "not-an-image"),
    ("POST", "/v1/score", {"content": RED[:60]}, 422, "truncated-frame"),
    ("POST", "/v1/score", {"content": BIG_PICTURE}, 413, "frame-too-large"),
    ("POST", "/v1/score", {"content": bytes(200_001)}, 413, "body-too-large"),
    ("POST", "/v1/score", {"content": iter([bytes(60_000)] * 6)}, 413, "body-too-large"),
    ("POST", "/v1/score", {"files": files(RED, RED)}, 413, "body-too-large"),
    ("POST", "/v1/score", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "bad-request"),
    ("POST", "/v1/score", {"data": {"a": "b"}, "files": files(RED)}, 400, "bad-request"),
    ("POST", "/v1/score?pear=tiny", {"content": RED}, 400, "bad-request"),
    ("POST", "/v1/score?evidence=maybe", {"content": RED}, 400, "bad-request"),
    ("POST", "/v1/score?pair=third", {"content": RED}, 404, "pair-not-found"),
    ("POST", "/v1/score?pair=../../etc", {"content": RED}, 404, "pair-not-found"),
    ("POST", "/v1/score?operating_point=best", {"content": RED}, 404, "operating-point-not-found"),
    ("POST", "/v1/score/batch", {"content": RED}, 400, "bad-request"),
    ("POST", "/v1/score/batch", {"files": files(*[RED] * 9)}, 413, "body-too-large"),
    ("POST", "/v1/score/batch", {"files": files(bytes(400_001))}, 413, "body-too-large"),
    ("GET", "/v1/score", {}, 405, "method-not-allowed"),
    ("POST", "/readyz", {}, 405, "method-not-allowed"),
    ("GET", "/nowhere", {}, 404, "not-found"),
    ("GET", "/static_content/../../etc/passwd", {}, 404, "not-found"),
    ("GET", "/v2/models/third", {}, 404, "pair-not-found"),
    ("GET", "/v2/models/tiny/versions/9", {}, 404, "pair-not-found"),
    ("POST", "/v1/score?version=9", {"content": RED}, 404, "pair-not-found"),
    ("POST", "/v1/score?pair=second&version=../1.0.0", {"content": RED}, 404, "pair-not-found"),
]


@pytest.mark.parametrize(("method", "path", "options", "status", "slug"), CASES)
def test_errors_are_problem_documents(
    client: httpx.Client, method: str, path: str, options: dict[str, Any], status: int, slug: str
) -> None:
    response = client.request(method, path, **options)
    problem = response.json()
    assert response.status_code == status, problem
    assert response.headers["content-type"] == "application/problem+json"
    # Clients of the Open Inference Protocol look for `error`.
    own = {"error"} if path.startswith("/v2/models/") else set()
    assert set(problem) == {"type", "title", "status", "detail", "request_id"} | own
    assert problem["type"] == f"urn:pipeprobe:problem:{slug}"
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["title"]
    assert problem["detail"]
    assert str(ROOT) not in response.text
    assert "Traceback" not in response.text


class SlowSenders:
    """Connections whose body never ends."""

    def __init__(self, url: str, n: int) -> None:
        address = (httpx.URL(url).host, httpx.URL(url).port or 0)
        self.connections = [socket.create_connection(address, timeout=10) for _ in range(n)]
        for connection in self.connections:
            connection.sendall(b"POST /v1/score HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\nabc")

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


def in_flight(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith("pipeprobe_requests_in_flight ")))


def wait_for_in_flight(client: httpx.Client, n: int) -> None:
    deadline = time.monotonic() + 5
    while in_flight(client) != n:
        assert time.monotonic() < deadline, f"{in_flight(client)} requests in flight, expected {n}"
        time.sleep(0.02)


def test_refuses_at_once_when_full_and_frees_what_callers_leave(client: httpx.Client) -> None:
    senders = SlowSenders(str(client.base_url), 40)
    try:
        wait_for_in_flight(client, 40)
        started_at = time.monotonic()
        refused = client.post("/v1/score", content=RED)
        assert time.monotonic() - started_at < 1
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:pipeprobe:problem:overloaded"
        assert int(refused.headers["retry-after"]) >= 1
    finally:
        senders.close()
    wait_for_in_flight(client, 0)
    assert client.post("/v1/score", content=RED).status_code == 200


def test_slow_bodies_meet_the_deadline(client: httpx.Client) -> None:
    senders = SlowSenders(str(client.base_url), 1)
    try:
        answer = ""
        while not answer.endswith("}") and (part := senders.connections[0].recv(65536)):
            answer += part.decode()
    finally:
        senders.close()
    assert answer.startswith("HTTP/1.1 504")
    assert "urn:pipeprobe:problem:deadline-exceeded" in answer


# What else there is.


def test_describes_its_pairs(client: httpx.Client) -> None:
    models = client.get("/v2/models").json()["models"]
    assert [(m["name"], m["version"], m["default"]) for m in models] == [
        ("tiny", "1.0.0", True),
        ("second", "2.1.0", False),
    ]
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1.0.0"):
        metadata = client.get(path).json()
        assert metadata["inputs"] == [{"name": "frames", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]}]
        assert {output["name"] for output in metadata["outputs"]} == {"score", "logit", "embedding", "evidence"}
        assert metadata["properties"]["device"] == "cpu"
        assert metadata["properties"]["operating_points"]["recall_95"]["threshold"] == 0.3
    assert client.get("/v2/models/second/ready").json() == {"name": "second", "ready": True}
    assert client.get("/v2").json()["name"] == "pipeprobe"


def test_health_pages(client: httpx.Client) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"):
        assert client.get(path).status_code == 200, path


def test_pages_load_nothing_from_elsewhere(client: httpx.Client) -> None:
    for path in ("/", "/docs"):
        page = client.get(path)
        assert page.headers["content-type"].startswith("text/html")
        assert "://" not in page.text
    assert client.get("/static_content/swagger-ui-bundle.js").status_code == 200


def test_openapi_lists_the_routes_that_exist(client: httpx.Client) -> None:
    document = client.get("/docs.json").json()
    for path, operations in document["paths"].items():
        url = path.format(name="tiny", version="1.0.0", id="0" * 32)
        for method in operations:
            answer = client.request(method, url)
            assert answer.status_code not in (405, 500), f"{method} {path}: {answer.status_code}"
            if answer.status_code == 404:
                # The route is there; only a video job of that id is not.
                assert answer.json()["type"] == "urn:pipeprobe:problem:job-not-found", path


# The command.


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--host", "localhost"], ConfigError),
        (["--pair", "missing"], PairNotFoundError),
        (["--variant", "int8"], PairNotFoundError),
    ],
)
def test_serve_refuses_before_it_starts(
    models: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: type[PipeprobeError]
) -> None:
    monkeypatch.delenv("PIPEPROBE_SHARED_DATA", raising=False)  # the tests' own; to the service it is a misspelling
    for name in ("PAIR", "DEVICE", "VARIANT", "WORKERS", "MODELS"):
        monkeypatch.setenv(f"PIPEPROBE_{name}", "")
    arguments = ["--models", str(models), "--port", str(free_port()), *arguments]
    result = click.testing.CliRunner().invoke(serve, arguments)
    assert isinstance(result.exception, error), result.output


def test_serve_refuses_a_taken_port(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPEPROBE_SHARED_DATA", raising=False)
    monkeypatch.setenv("PIPEPROBE_MODELS", str(models))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = click.testing.CliRunner().invoke(serve, ["--port", str(taken.getsockname()[1])])
    assert isinstance(result.exception, ConfigError)
    assert "is taken" in str(result.exception)


def test_ctrl_c_stops_everything(models: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "serving", "serve", "--models", str(models), "--port", str(port)]
    environment = clean_environment(tmp_path) | {"TMPDIR": str(tmp_path)}
    with started(command, cwd=ROOT, env=environment, log=tmp_path / "log") as process:
        wait_until_ready(f"http://127.0.0.1:{port}", process, log=tmp_path / "log")
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=15) == 0
    assert psutil.wait_procs(workers, timeout=5)[1] == []
    log = (tmp_path / "log").read_text()
    assert f"pipeprobe serves tiny 1.0.0 on http://127.0.0.1:{port}" in log
    assert "Traceback" not in log
    assert not list(tmp_path.glob("pipeprobe-*"))
