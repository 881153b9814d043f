"""Requests at a rate that does not wait for answers, as a crowd of independent callers sends them.

A closed loop of clients slows down with the service and so can never overload it. Here each request has its moment,
drawn beforehand, and its latency counts from that moment, also where the generator itself was late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GAVE_UP = 0
"""Status of a request that was not answered in time."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one request: HTTP status, seconds from its moment to its answer, Retry-After if there was one."""

    status: int
    latency_s: float
    late_s: float
    retry_after: str | None


async def offer(
    host: str, port: int, request: bytes, *, rate: float, seconds: float, patience_s: float, seed: int = 0
) -> list[Answer]:
    """Send `request` (a whole HTTP/1.1 request) `rate` times a second for `seconds`, at random moments.

    Every request gets a connection that is free, or a new one.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, round(rate * seconds)))
    moments = np.cumsum(gaps)
    idle: list[_Connection] = []
    begun = time.perf_counter()
    tasks = []
    for moment in moments.tolist():
        wait_s = begun + moment - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        tasks.append(asyncio.create_task(_ask(host, port, request, begun + moment, patience_s, idle)))
    answers = await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return answers


async def closed_loop(host: str, port: int, request: bytes, *, clients: int, seconds: float) -> float:
    """Answers with status 200 a second, from `clients` that each wait for one answer before they ask again."""
    begun = time.perf_counter()
    idle: list[_Connection] = []

    async def client() -> int:
        n_good = 0
        while (now := time.perf_counter()) < begun + seconds:
            n_good += (await _ask(host, port, request, now, 60.0, idle)).status == 200
        return n_good

    total = sum(await asyncio.gather(*(client() for _ in range(clients))))
    for connection in idle:
        connection.close()
    return total / (time.perf_counter() - begun)


def latency_ms(answers: Sequence[Answer], percentile: float) -> float:
    """A percentile of the answers' latencies in milliseconds; NaN if there are none."""
    return float(np.percentile([1000 * a.latency_s for a in answers], percentile)) if answers else float("nan")


async def _ask(
    host: str, port: int, request: bytes, moment: float, patience_s: float, idle: list[_Connection]
) -> Answer:
    late_s = time.perf_counter() - moment
    status, retry_after = GAVE_UP, None
    connection = None
    try:
        async with asyncio.timeout(patience_s):
            connection = await _open_connection(host, port, idle)
            status, retry_after, reusable = await connection.ask(request)
        if reusable:
            idle.append(connection)
        else:
            connection.close()
    except (TimeoutError, OSError):
        if connection is not None:
            connection.close()
    return Answer(status=status, latency_s=time.perf_counter() - moment, late_s=late_s, retry_after=retry_after)


async def _open_connection(host: str, port: int, idle: list[_Connection]) -> _Connection:
    """One that the service has not closed meanwhile, as it does with those that were idle for some seconds."""
    while idle:
        if (connection := idle.pop()).is_open:
            return connection
    return await _Connection.open(host, port)


class _Connection(asyncio.Protocol):
    """One request at a time; as little Python as possible, since the generator shares the service's machine."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, str | None, bool]] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> _Connection:
        return (await asyncio.get_running_loop().create_connection(cls, host, port))[1]

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> tuple[int, str | None, bool]:
        """Status, Retry-After, and whether the connection may be used again."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP has no other
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0 or self._answer is None or self._answer.done():
            return
        status_line, *lines = self._received[:head_end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if len(self._received) >= head_end + 4 + int(headers["content-length"]):
            self._received.clear()
            reusable = headers.get("connection") != "close"
            self._answer.set_result((int(status_line.split()[1]), headers.get("retry-after"), reusable))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the service hung up"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
