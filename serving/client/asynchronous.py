"""The client for programs on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import numpy as np
from numpy.typing import NDArray

from serving.client.core import Batching, Core, Gathering, Options, Progress, headers_of
from serving.client.errors import ClientError
from serving.client.exchange import Outcome, Pause, Reply, Send, Steps, T, headers_of_call
from serving.client.frames import FrameLike, Payload, batches_of, payload_of
from serving.client.results import Failure, Model, PairFacts, Score
from serving.client.retries import Retries
from serving.client.videos import (
    VideoJob,
    VideoOptions,
    VideoProgress,
    VideoResult,
    cancel_video,
    follow_video,
    submit_video,
    video_job,
)

_CHUNK = 2**20


class AsyncClient:
    """As `Client`, with `await`: the same arguments, methods, results and errors.

        async with AsyncClient("http://127.0.0.1:3000") as client:
            print((await client.score("frame.jpg")).verdict)

    Files are read, and pixels encoded, in threads, so the loop never waits for them.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        deadline_s: float = 60.0,
        retries: Retries | None = None,
        batching: Batching | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._core = Core(
            url=httpx.URL(url),
            headers=headers_of(api_key),
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            deadline_s=deadline_s,
            retries=retries or Retries(),
            batching=batching or Batching(),
        )
        self._http = httpx.AsyncClient(base_url=self._core.url, headers=self._core.headers, verify=verify)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def score(
        self,
        frame: FrameLike,
        *,
        pair: str | None = None,
        version: str | None = None,
        operating_point: str | None = None,
        evidence: bool = False,
    ) -> Score:
        """Score one frame; see `Client.score`."""
        options = Options(pair=pair, version=version, operating_point=operating_point, evidence=evidence)
        payload = await asyncio.to_thread(payload_of, frame)
        return await self._run(self._core.score(payload, options))

    async def score_many(
        self,
        frames: Iterable[FrameLike],
        *,
        pair: str | None = None,
        version: str | None = None,
        operating_point: str | None = None,
        evidence: bool = False,
        progress: Progress | None = None,
    ) -> list[Score | Failure]:
        """A `Score` or a `Failure` for every frame, in order; see `Client.score_many`.

        `frames` is iterated in threads. `progress` is called on the loop.
        """
        options = Options(pair=pair, version=version, operating_point=operating_point, evidence=evidence)
        batching = self._core.batching
        gathering = Gathering(frames, progress)
        batches = batches_of(frames, max_frames=batching.max_frames, max_bytes=batching.max_bytes)
        pending: dict[asyncio.Task[list[Score | Failure]], list[int]] = {}
        try:
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                indices, payloads, failures = batch
                gathering.add_failures(failures)
                if payloads:
                    pending[asyncio.create_task(self._score_batch(payloads, options))] = indices
                while len(pending) >= batching.concurrency:
                    await _collect(pending, gathering)
            while pending:
                await _collect(pending, gathering)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        return gathering.in_order()

    async def score_video(
        self,
        path: str | os.PathLike[str],
        *,
        options: VideoOptions | None = None,
        upload_s: float = 3600.0,
        progress: VideoProgress | None = None,
    ) -> VideoResult:
        """Send a whole inspection, wait for its end, and return its findings; see `Client.score_video`."""
        job = await self.submit_video(path, options=options, upload_s=upload_s)
        try:
            return await self.video_result(job.id, progress=progress)
        except ClientError as error:
            error.add_note(f"video job {job.id}")
            raise
        except BaseException:
            with contextlib.suppress(ClientError):
                await asyncio.shield(self.cancel_video(job.id))
            raise

    async def submit_video(
        self, path: str | os.PathLike[str], *, options: VideoOptions | None = None, upload_s: float = 3600.0
    ) -> VideoJob:
        """Send a whole inspection within `upload_s` and do not wait for what becomes of it."""
        return await self._run(submit_video(self._core, Path(path), options or VideoOptions(), upload_s=upload_s))

    async def video_job(self, job_id: str) -> VideoJob:
        """How far a job is."""
        return await self._run(video_job(self._core, job_id))

    async def video_result(self, job_id: str, *, progress: VideoProgress | None = None) -> VideoResult:
        """Wait for a job's end and return its findings."""
        return await self._run(follow_video(self._core, job_id, progress))

    async def cancel_video(self, job_id: str) -> None:
        """End a job that waits or runs; delete one that has ended, with its results."""
        await self._run(cancel_video(self._core, job_id))

    async def score_raw(
        self,
        frames: NDArray[np.uint8],
        *,
        pair: str | None = None,
        version: str | None = None,
        evidence: bool = False,
    ) -> list[Score]:
        """A score for each frame, uint8 [N, S, S, 3] at the pair's size S: decoded and resized by the caller."""
        return await self._run(self._core.score_raw(frames, Options(pair=pair, version=version, evidence=evidence)))

    async def pair_facts(self, name: str, version: str | None = None) -> PairFacts:
        """What a served pair says of itself: its manifest, and what scores with it."""
        return await self._run(self._core.pair_facts(name, version))

    async def models(self) -> list[Model]:
        """The pairs that are served."""
        return await self._run(self._core.models())

    async def ready(self) -> bool:
        """Whether the service can be reached and is ready to score; see `Client.ready`."""
        return await self._run(self._core.ready())

    async def _score_batch(self, payloads: list[Payload], options: Options) -> list[Score | Failure]:
        return await self._run(self._core.score_batch(payloads, options))

    async def _run(self, steps: Steps[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                wanted = steps.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            outcome = await self._do(wanted)

    async def _do(self, wanted: Send | Pause) -> Outcome:
        if isinstance(wanted, Pause):
            await asyncio.sleep(wanted.seconds)
            return None
        call = wanted.call
        try:
            async with (
                asyncio.timeout(wanted.timeout_s),
                self._http.stream(
                    call.method,
                    call.path,
                    params=call.params,
                    headers=headers_of_call(call),
                    content=_chunks(call.content) if isinstance(call.content, Path) else call.content,
                    files=call.files,
                    timeout=self._core.timeout(wanted.timeout_s),
                ) as response,
            ):
                return Reply(status=response.status_code, headers=response.headers, body=await response.aread())
        except TimeoutError:
            return httpx.ReadTimeout("no answer before the deadline")
        except httpx.RequestError as error:
            return error


async def _collect(pending: dict[asyncio.Task[list[Score | Failure]], list[int]], gathering: Gathering) -> None:
    done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        gathering.add(pending.pop(task), task.result())


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
