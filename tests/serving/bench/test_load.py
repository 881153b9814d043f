"""The load generator against real sockets: what it counts, and what it survives."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from serving.bench.load import closed_loop, frame_requests
from serving.errors import PipeprobeError

FRAMES = [b"x" * 100_000, b"y" * 10]


@contextmanager
def server(answers: list[bytes], seen: list[bytes]) -> Iterator[tuple[str, int]]:
    """Answers the requests of each connection with `answers` in turn, in pieces, and hangs up after the last."""

    def serve(connection: socket.socket) -> None:
        with connection:
            for answer in answers:
                head = b""
                while b"\r\n\r\n" not in head:
                    if not (part := connection.recv(65536)):
                        return
                    head += part
                head, _, body = head.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                while len(body) < length:
                    body += connection.recv(65536)
                seen.append(head + b"|" + body[:1])
                time.sleep(0.02)
                for part in (answer[:5], answer[5:40], answer[40:]):
                    connection.sendall(part)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def answer(status: int, body: bytes = b'{"a": 1}') -> bytes:
    return b"HTTP/1.1 %d Fine\r\nContent-Type: x\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


def test_counts_answers_and_failures_apart() -> None:
    seen: list[bytes] = []
    with server([answer(200), answer(503), answer(200, b"z" * 70_000)], seen) as address:
        requests = frame_requests("http://here:1", FRAMES)
        run = closed_loop(address, requests, clients=2, seconds=5)
    # Each client: two answers, one refusal, and a hang-up.
    assert (run.clients, run.failed) == (2, 4)
    assert 20 <= run.p50_ms <= run.p99_ms
    assert run.requests_per_s > 0
    assert run.cpu_ms > 0
    assert {entry[-1:] for entry in seen} == {b"x", b"y"}
    assert all(entry.startswith(b"POST /v1/score HTTP/1.1") for entry in seen)


def test_stops_in_time() -> None:
    with server([answer(200)] * 1000, []) as address:
        began = time.monotonic()
        run = closed_loop(address, frame_requests("http://here:1", FRAMES), clients=3, seconds=0.3)
        assert time.monotonic() - began < 5
    assert run.failed == 0


def test_says_when_nobody_answers_with_a_score() -> None:
    with server([answer(503)] * 5, []) as address, pytest.raises(PipeprobeError, match=f"{address[1]} answered no"):
        closed_loop(address, frame_requests("http://here:1", FRAMES), clients=1, seconds=1)


def test_sends_the_key() -> None:
    (request,) = frame_requests("http://here:1/prefix/", [b"abc"], key="secret")
    assert request.startswith(b"POST /prefix/v1/score HTTP/1.1\r\nHost: here:1\r\n")
    assert b"\r\nX-Api-Key: secret\r\n" in request
    assert request.endswith(b"\r\n\r\nabc")
