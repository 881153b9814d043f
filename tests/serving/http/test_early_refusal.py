"""What is refused by its head: answered before its body has come, in the usual shape, over a connection that stays."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest
from support.images import encode, smooth_frame
from support.live_service import live_processes, live_service
from support.tiny_pair import write_tiny_pair

FRAME = encode(smooth_frame(), "JPEG")
BODY = FRAME + bytes(300_000)  # longer than what a socket's buffers take at once
KEEP_ALIVE_S = 5.0  # uvicorn's, for which a connection may be idle


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    write_tiny_pair(models)
    with live_service(models=models, settings={"max_requests": 1, "max_body_bytes": 2**20}) as url:
        yield url


def head(length: int, *, path: str = "/v1/score", version: str = "1.1", more: str = "") -> bytes:
    return f"POST {path} HTTP/{version}\r\nHost: here\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def connect(url: str) -> socket.socket:
    where = httpx.URL(url)
    return socket.create_connection((where.host, where.port or 0), timeout=10)


def read_answer(connection: socket.socket) -> HTTPResponse:
    answer = HTTPResponse(connection)
    answer.begin()
    return answer


def metric(url: str, start: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=10).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(start))


@contextmanager
def no_room(url: str) -> Iterator[None]:
    """The only request that the service takes at a time is one whose body does not end until the block has."""
    with connect(url) as holder:
        holder.sendall(head(len(FRAME)) + FRAME[:-1])
        deadline = time.monotonic() + 10
        while not metric(url, "pipeprobe_requests_in_flight"):
            assert time.monotonic() < deadline
        yield
        holder.sendall(FRAME[-1:])
        assert read_answer(holder).status == 200
    deadline = time.monotonic() + 10
    while metric(url, "pipeprobe_requests_in_flight"):
        assert time.monotonic() < deadline


def test_the_answer_comes_before_the_body_and_the_connection_goes_on(url: str) -> None:
    with connect(url) as connection:
        with no_room(url):
            for _ in range(2):
                connection.sendall(head(len(BODY)))
                answer = read_answer(connection)
                assert answer.status == 503
                problem = json.loads(answer.read())
                connection.sendall(BODY)
        connection.sendall(head(len(FRAME)) + FRAME)
        assert read_answer(connection).status == 200
    assert problem["type"] == "urn:pipeprobe:problem:overloaded"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1


def test_a_connection_that_is_in_use_outlives_the_time_for_idle_ones(url: str) -> None:
    """Who has its answer sends the next request while the last body is still read, so that both arrive at once."""
    one = head(len(FRAME)) + FRAME
    until = time.monotonic() + KEEP_ALIVE_S + 2
    with no_room(url), connect(url) as connection:
        connection.sendall(one + one)
        answers = b""
        while answers.count(b"HTTP/1.1 503 ") < 2 or not answers.endswith(b"}"):
            part = connection.recv(65536)
            assert part
            answers += part
        while time.monotonic() < until:
            connection.sendall(one)
            with read_answer(connection) as answer:
                assert answer.status == 503
                answer.read()
            time.sleep(0.1)


def test_it_is_what_a_handler_would_have_said(url: str) -> None:
    """A chunked body, whose length is not declared, goes the usual way."""
    given = {"X-Request-Id": "from-the-caller"}
    with no_room(url):
        early = httpx.post(f"{url}/v1/score", content=BODY, headers=given)
        usual = httpx.post(f"{url}/v1/score", content=iter([FRAME]), headers=given)
    assert early.status_code == usual.status_code == 503
    assert early.json() == usual.json()
    ours = {"content-type", "retry-after", "x-request-id", "x-pipeprobe-pair", "x-pipeprobe-pair-version"}
    assert {name: early.headers[name] for name in ours} == {name: usual.headers[name] for name in ours}


def test_refusals_are_counted_and_said_in_one_line(tmp_path: Path) -> None:
    write_tiny_pair(tmp_path)
    with live_processes(models=tmp_path, settings={"max_requests": 1}) as service:
        url, log = service.url, service.log
        names = (
            'pipeprobe_rejected_total{reason="overloaded"}',
            'pipeprobe_requests_total{method="POST",route="/v1/score"',
        )
        with no_room(url), httpx.Client() as client:
            assert {client.post(f"{url}/v1/score", content=FRAME).status_code for _ in range(20)} == {503}
            assert [metric(url, name) for name in names] == [20, 20]
            # A line a second, however many there are; a busy machine may take two.
            deadline = time.monotonic() + 10
            while sum(said := [int(n) for n in re.findall(r"overloaded: (\d+) requests", log.read_text())]) < 20:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert sum(said) == 20
            assert len(said) < 5
            assert "/v1/score 503" not in log.read_text()


def test_who_asks_whether_to_send_is_told_not_to(url: str) -> None:
    with no_room(url), connect(url) as connection:
        connection.sendall(head(len(BODY), more="Expect: 100-continue\r\n"))
        answer = read_answer(connection)
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        answer.read()
        assert connection.recv(1) == b""


def test_a_client_that_keeps_no_connection_reads_its_answer_after_sending_all(url: str) -> None:
    with no_room(url), connect(url) as connection:
        connection.sendall(head(len(BODY), version="1.0") + BODY)
        answer = read_answer(connection)
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        answer.read()
        assert connection.recv(1) == b""


@pytest.mark.parametrize("path", ["/v1/score?pair=nobody", "/v1/nothing"])
def test_what_is_wrong_anyway_is_told_so(url: str, path: str) -> None:
    with no_room(url):
        assert httpx.post(f"{url}{path}", content=FRAME).status_code == 404
