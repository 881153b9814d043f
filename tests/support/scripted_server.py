"""A loopback server that answers by a script: well, badly, late, or not at all."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

RESET = b"<reset>"
"""Read the request, then break the connection."""
HANG = b"<hang>"
"""Read the request, then say nothing."""
DRIP = b"<drip>"
"""Begin an answer and send a byte of its body every now and then, for ever."""

_DRIP_S = 0.02


@dataclass
class ScriptedServer:
    """Its URL, and what it received: one entry per request, the moment (`time.monotonic`) beside head and body."""

    url: str
    received: list[tuple[float, bytes]] = field(default_factory=list)


def answer(status: int, body: object, *headers: str, content_type: str = "application/json") -> bytes:
    """A whole HTTP answer that closes its connection; `body` is JSON or, as bytes, itself."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join([*head, "Connection: close", "", ""]).encode() + data


def problem(status: int, *headers: str, slug: str = "overloaded") -> bytes:
    """A problem document as the service sends them."""
    body = {
        "type": f"urn:pipeprobe:problem:{slug}",
        "title": slug,
        "status": status,
        "detail": "by script",
        "request_id": "r-1",
    }
    return answer(status, body, *headers, content_type="application/problem+json")


@contextmanager
def scripted_server(script: Sequence[bytes]) -> Iterator[ScriptedServer]:
    """Serve connection after connection by `script`, the last entry again and again; stopped on leaving."""
    stop = threading.Event()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = ScriptedServer(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        lock = threading.Lock()

        def serve(connection: socket.socket) -> None:
            with connection:
                connection.settimeout(10)
                request = _read_request(connection)
                with lock:
                    step = script[min(len(server.received), len(script) - 1)]
                    server.received.append((time.monotonic(), request))
                _play(connection, step, stop)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
                threads[-1].start()

        threads = [threading.Thread(target=accept, daemon=True)]
        threads[0].start()
        try:
            yield server
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(timeout=10)


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while lengths and len(body) < lengths[0] and (part := connection.recv(65536)):
        body += part
    return head + b"\r\n\r\n" + body


def _play(connection: socket.socket, step: bytes, stop: threading.Event) -> None:
    if step == RESET:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif step == HANG:
        stop.wait()
    elif step == DRIP:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not stop.wait(_DRIP_S):
            try:
                connection.sendall(b" ")
            except OSError:
                return
    else:
        connection.sendall(step)
