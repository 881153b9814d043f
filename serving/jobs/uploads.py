"""Uploaded videos to disk: bounded while they stream in, hashed on the way, gone unless they are kept.

Blocks are written in a thread, since a disk that is busy would stop every other request of this worker. A body
that is too large, too slow, malformed or cut off leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from serving.errors import BodyTooLargeError, DeadlineExceededError, RequestError
from serving.jobs.multipart import MULTIPART, MultipartFile

_MIB = 2**20
_BLOCK = _MIB
# What a multipart body may hold besides the video: boundaries and headers.
_ENVELOPE = 64 * 1024
_NAME_BYTES = 120


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """`max_bytes` of one video, `timeout_s` for all of it and `stall_s` for each piece."""

    max_bytes: int
    timeout_s: float
    stall_s: float


@dataclass(frozen=True, kw_only=True)
class Received:
    """A whole upload: where it lies for now, what it is called, its bytes and their SHA-256."""

    path: Path
    name: str
    n_bytes: int
    sha256: str


@asynccontextmanager
async def receive_video(
    request: Request, path: Path, limits: UploadLimits, check_room: Callable[[int], None], *, name: str
) -> AsyncIterator[Received]:
    """The body, raw or as the one file of a multipart form, in `path`; on leaving it is deleted unless moved away.

    Args:
        check_room: asked, in a thread, before each further number of bytes; raises if there is no room.
        name: what a raw body is called.

    Raises `BodyTooLargeError`, `RequestError`, `DeadlineExceededError`, what `check_room` raises, and Starlette's
    `ClientDisconnect`.
    """
    sink = _Sink(path, limits.max_bytes, check_room)
    try:
        try:
            async with asyncio.timeout(limits.timeout_s):
                name = await _receive(request, sink, limits, name)
                await run_in_threadpool(sink.finish)
        except TimeoutError:
            raise DeadlineExceededError(
                f"the upload must be done within {limits.timeout_s:g} s and never pause for {limits.stall_s:g} s"
            ) from None
        yield Received(path=path, name=safe_name(name), n_bytes=sink.n_bytes, sha256=sink.sha256)
    finally:
        await run_in_threadpool(sink.discard)


def safe_name(given: str) -> str:
    """The last part of a file name that came from a caller, without what a file system could trip over."""
    last = given.replace("\\", "/").rpartition("/")[2]
    kept = "".join(c for c in last if c.isprintable() and c not in '<>:"|?*').strip(" .")
    stem, dot, ending = kept.rpartition(".")
    room = _NAME_BYTES - len((dot + ending).encode())
    if dot and room > 0:
        kept = _cut(stem, room).rstrip(" .") + dot + ending
    return _cut(kept, _NAME_BYTES).strip(" .") or "video"


def _cut(text: str, n_bytes: int) -> str:
    return text.encode()[:n_bytes].decode(errors="ignore")


async def _receive(request: Request, sink: _Sink, limits: UploadLimits, name: str) -> str:
    """Write the body to `sink`; the video's name."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != MULTIPART:
        await sink.declare(request, 0)
        async for chunk in _chunks(request, limits.stall_s):
            await sink.add(chunk)
        await sink.flush()
        return name
    await sink.declare(request, _ENVELOPE)
    form, outside = MultipartFile(content_type), 0
    async for chunk in _chunks(request, limits.stall_s):
        outside += len(chunk)
        for piece in form.feed(chunk):
            outside -= len(piece)
            await sink.add(piece)
        if outside > _ENVELOPE:
            raise RequestError("the multipart body holds more than one video; send one file and nothing else")
    form.check_complete()
    await sink.flush()
    return form.name


async def _chunks(request: Request, stall_s: float) -> AsyncIterator[bytes]:
    stream = aiter(request.stream())
    while True:
        async with asyncio.timeout(stall_s):
            chunk = await anext(stream, None)
        if chunk is None:
            return
        yield chunk


class _Sink:
    """A file that grows block by block, up to a bound."""

    def __init__(self, path: Path, max_bytes: int, check_room: Callable[[int], None]) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._check_room = check_room
        self._hash = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._n_waiting = 0
        self._file = path.open("xb", buffering=0)
        self.n_bytes = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def declare(self, request: Request, envelope: int) -> None:
        """Refuse at once a body whose declared length is too much."""
        declared = request.headers.get("content-length", "")
        if declared.isdecimal():
            if int(declared) > self._max_bytes + envelope:
                raise self._too_large()
            await run_in_threadpool(self._check_room, int(declared))

    async def add(self, piece: bytes) -> None:
        self.n_bytes += len(piece)
        if self.n_bytes > self._max_bytes:
            raise self._too_large()
        self._waiting.append(piece)
        self._n_waiting += len(piece)
        if self._n_waiting >= _BLOCK:
            await self.flush()

    async def flush(self) -> None:
        block = b"".join(self._waiting)
        self._waiting.clear()
        self._n_waiting = 0
        if block:
            await run_in_threadpool(self._write, block)

    def finish(self) -> None:
        """Make it outlast a power cut. Raises `RequestError` if nothing came."""
        if self.n_bytes == 0:
            raise RequestError("the body is empty; send a video, or JSON with a path")
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _write(self, block: bytes) -> None:
        self._check_room(len(block))
        self._hash.update(block)
        view = memoryview(block)
        while view:
            view = view[self._file.write(view) :]

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the video has more than the {self._max_bytes / _MIB:.3g} MiB allowed")
