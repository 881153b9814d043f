"""The HTTP protocol under a real server: heads are bounded, bodies are not its business."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import httpx
import pytest
from support.live_service import live_service
from support.tiny_pair import write_tiny_pair

from serving.http.http_protocol import MAX_HEAD_BYTES

START = b"POST /v1/score HTTP/1.1\r\nHost: here\r\n"
# More than the kernel's buffers hold on loopback, tens of MiB, which a busy service takes long to find full.
MOST_BYTES = 2**26


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    write_tiny_pair(models)
    with live_service(models=models, settings={"max_body_bytes": 2**20, "max_frame_bytes": 2**20}) as url:
        yield url


@pytest.fixture
def connection(service: str) -> Iterator[socket.socket]:
    url = httpx.URL(service)
    with socket.create_connection((url.host, url.port or 0), timeout=30) as connection:
        yield connection


def send_endlessly(connection: socket.socket, part: bytes) -> int:
    """Send until the other side hangs up, or twice `MOST_BYTES`; bytes that it took."""
    sent = 0
    try:
        while sent < 2 * MOST_BYTES:
            connection.sendall(64 * part)
            sent += 64 * len(part)
    except OSError:
        pass
    return sent


def read_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of what came before the other side hung up."""
    answer = b""
    try:
        while part := connection.recv(65536):
            answer += part
    except ConnectionResetError:
        pass
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize("part", [b"X-A: " + b"a" * 1000 + b"\r\n", b"a" * 1000], ids=["many headers", "one header"])
def test_hangs_up_on_an_endless_head(connection: socket.socket, part: bytes) -> None:
    connection.sendall(START + b"X-B: ")
    assert send_endlessly(connection, part) < MOST_BYTES


def test_hangs_up_on_endless_trailers(connection: socket.socket) -> None:
    connection.sendall(START + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n")
    assert send_endlessly(connection, b"X-A: " + b"a" * 1000 + b"\r\n") < MOST_BYTES


@pytest.mark.parametrize(
    ("request_", "status"),
    [(START + b"X-A: " + b"a" * MAX_HEAD_BYTES, 431), (b"EHLO here\r\n\r\n", 400)],
    ids=["long head", "no HTTP"],
)
def test_says_why_it_hangs_up(connection: socket.socket, request_: bytes, status: int) -> None:
    connection.sendall(request_)
    head, body = read_answer(connection)
    problem = json.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/problem+json" in head
    assert f"x-request-id: {problem['request_id']}".encode() in head
    assert (problem["status"], set(problem)) == (status, {"type", "title", "status", "detail", "request_id"})


def test_bodies_may_be_longer_than_heads_and_come_in_pieces(service: str) -> None:
    body = iter([b"junk" * 50_000, b"x", b"junk" * 50_000])
    assert httpx.post(f"{service}/v1/score", content=body).status_code == 415


def test_a_connection_takes_one_request_after_another(service: str) -> None:
    headers = {"X-A": "a" * (MAX_HEAD_BYTES // 3)}
    with httpx.Client(base_url=service) as client:
        answers = [client.get("/v2", headers=headers).json()["name"] for _ in range(6)]
    assert answers == ["pipeprobe"] * 6
