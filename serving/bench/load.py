"""A closed loop of clients in Python: each sends its next request when the last is answered.

    python -m serving.bench.load URL FOLDER --clients 16 --seconds 5

It runs in a process of its own, so that it shares no interpreter lock with what it measures, and prints one JSON
object. It knows as much of HTTP as the service's answers need, and costs some 0.1-0.2 ms of a core a request, which
`cpu_ms` tells: where that is much of what a frame costs, a compiled generator (wrk, oha) shows more of the service.
"""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import numpy as np

from serving.errors import PipeprobeError

TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class LoadRun:
    """What the clients saw: answers with 200 a second, latency in milliseconds, and what the generator itself cost."""

    clients: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_ms: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_load(url: str, folder: Path, *, clients: int, seconds: float, key: str = "") -> LoadRun:
    """The loop in a child process, sending the files in `folder`, after a quarter of the time that is not counted.

    Raises `PipeprobeError` if it fails, with what it said.
    """
    options = ["--clients", str(clients), "--seconds", str(seconds)]
    result = subprocess.run(
        [sys.executable, "-m", "serving.bench.load", url, str(folder), *options],
        input=key,
        capture_output=True,
        text=True,
        timeout=2 * seconds + 2 * TIMEOUT_S,
        check=False,
    )
    if result.returncode != 0:
        raise PipeprobeError(f"the load generator failed: {(result.stderr.strip() or 'no output').splitlines()[-1]}")
    return LoadRun(**json.loads(result.stdout))


def frame_requests(url: str, jpegs: Sequence[bytes], key: str = "") -> list[bytes]:
    """One request to score each frame, ready to be sent."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path.rstrip('/')}/v1/score HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: image/jpeg"]
    lines += [f"X-Api-Key: {key}"] if key else []
    head = "\r\n".join(lines)
    return [f"{head}\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode() + jpeg for jpeg in jpegs]


def closed_loop(address: tuple[str, int], requests: Sequence[bytes], *, clients: int, seconds: float) -> LoadRun:
    """Run the loop in threads of this process; raises `PipeprobeError` if nobody answers at the address."""
    latencies: list[list[float]] = [[] for _ in range(clients)]
    failed = [0] * clients
    cpu_s = time.process_time()
    began = time.perf_counter()
    threads = [
        threading.Thread(target=_client, args=(address, requests, began + seconds, index, latencies[index], failed))
        for index in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - began
    answered = np.array([latency for each in latencies for latency in each])
    if not answered.size:
        raise PipeprobeError(f"{address[0]}:{address[1]} answered no request with 200")
    return LoadRun(
        clients=clients,
        requests_per_s=len(answered) / took_s,
        p50_ms=1000 * float(np.percentile(answered, 50)),
        p99_ms=1000 * float(np.percentile(answered, 99)),
        failed=sum(failed),
        cpu_ms=1000 * (time.process_time() - cpu_s) / len(answered),
    )


def _client(
    address: tuple[str, int],
    requests: Sequence[bytes],
    until: float,
    index: int,
    latencies: list[float],
    failed: list[int],
) -> None:
    turns = itertools.islice(itertools.cycle(requests), index, None)
    try:
        with socket.create_connection(address, timeout=TIMEOUT_S) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for status, latency in _exchanges(connection, turns, until):
                if status == 200:
                    latencies.append(latency)
                else:
                    failed[index] += 1
    except (OSError, ValueError):  # hung up, or no HTTP: the client's work ends here
        failed[index] += 1


def _exchanges(connection: socket.socket, turns: Iterator[bytes], until: float) -> Iterator[tuple[int, float]]:
    while (began := time.perf_counter()) < until:
        connection.sendall(next(turns))
        status = _read_answer(connection)
        yield status, time.perf_counter() - began


def _read_answer(connection: socket.socket) -> int:
    """Read one answer whose length is declared; its status. `ValueError` if it is none."""
    answer = b""
    while (end := answer.find(b"\r\n\r\n")) < 0:
        answer += _some(connection)
    head = answer[:end].lower()
    length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    left = end + 4 + length - len(answer)
    while left > 0:
        left -= len(_some(connection))
    return int(head.split(b" ", 2)[1])


def _some(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    if not part:
        raise ConnectionError("hung up")
    return part


@click.command()
@click.argument("url")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--clients", default=16, show_default=True)
@click.option("--seconds", default=5.0, show_default=True)
def main(url: str, folder: Path, clients: int, seconds: float) -> None:
    """Send the frames in FOLDER to the service at URL; an API key is read from standard input."""
    parts = urlsplit(url)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    frames = [path.read_bytes() for path in sorted(folder.iterdir())]
    requests = frame_requests(url, frames, sys.stdin.read().strip())
    closed_loop(address, requests, clients=clients, seconds=seconds / 4)
    click.echo(json.dumps(closed_loop(address, requests, clients=clients, seconds=seconds).to_json()))


if __name__ == "__main__":
    main()
