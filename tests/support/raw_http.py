"""HTTP by hand, for requests that no library would send."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

_HOST = b"Host: here\r\n"


@dataclass(frozen=True, kw_only=True)
class RawAnswer:
    """What came back. `status` 0: the connection was closed without an answer; -1: nothing within the limit."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The slug of the problem document that this is, or an empty string."""
        if not self.body or not self.headers.get("content-type", "").startswith("application/problem+json"):
            return ""
        return str(self.json()["type"]).rpartition(":")[2]


def address_of(url: str) -> tuple[str, int]:
    parsed = httpx.URL(url)
    return parsed.host, parsed.port or 80


def request_bytes(method: str, target: str, body: bytes = b"", headers: Sequence[str] = ()) -> bytes:
    """A well-formed request that asks for the connection to be closed after its answer."""
    lines = [f"{method} {target} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def send_raw(
    address: tuple[str, int], parts: Sequence[bytes], *, limit_s: float, pause_s: float = 0.0, hang_up: bool = False
) -> RawAnswer:
    """Send `parts`, `pause_s` apart, on a connection of their own, and read what comes back within `limit_s`.

    With `hang_up` the connection is closed after the last part, without reading.
    """
    started_at = time.monotonic()
    with socket.create_connection(address, timeout=limit_s) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                if pause_s and select.select([connection], [], [], pause_s)[0]:
                    break  # it answers already
        except OSError:
            pass  # it has read enough: what it answered before it closed is not lost
        data, timed_out = (b"", False) if hang_up else _receive(connection, started_at + limit_s)
    return _parse(data, -1 if timed_out else 0, time.monotonic() - started_at)


def _receive(connection: socket.socket, ends_at: float) -> tuple[bytes, bool]:
    """What comes until the answer is whole or the connection ends; whether the time ended first."""
    data = b""
    while not _is_whole(data):
        connection.settimeout(max(0.001, ends_at - time.monotonic()))
        try:
            received = connection.recv(65536)
        except TimeoutError:
            return data, True
        except OSError:
            return data, False
        if not received:
            return data, False
        data += received
    return data, False


def _is_whole(data: bytes) -> bool:
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator or head.split(b" ")[1:2] == [b"100"]:
        return False
    length = _headers(head).get("content-length")
    return length is not None and len(body) >= int(length)


def _headers(head: bytes) -> dict[str, str]:
    lines = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    return {name.strip().lower().decode("latin-1"): value.strip().decode("latin-1") for name, _, value in lines}


def _parse(data: bytes, silence: int, seconds: float) -> RawAnswer:
    while data.startswith(b"HTTP/1.1 100"):
        data = data.partition(b"\r\n\r\n")[2]
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return RawAnswer(status=silence, headers={}, body=data, seconds=seconds)
    return RawAnswer(status=int(head.split(b" ")[1]), headers=_headers(head), body=body, seconds=seconds)
