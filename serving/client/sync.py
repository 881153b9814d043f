"""The client for programs that wait."""

from __future__ import annotations

import contextlib
import os
import ssl
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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


class Client:
    """Scores frames over HTTP; safe to use from several threads. Close it, or use it in a `with`.

        with Client("http://127.0.0.1:3000") as client:
            print(client.score("frame.jpg").verdict)

    Args:
        url: where the service is; a path in it is kept, for services behind a proxy.
        api_key: sent as a Bearer token.
        timeout_s: longest silence during an attempt.
        connect_timeout_s: longest time to make a connection.
        deadline_s: longest time for a request with all its retries.
        retries: how often, and after how long, to try again.
        batching: how `score_many` cuts its frames into requests.
        verify: False trusts any certificate; a context trusts what it says.

    Every method raises a `ClientError`; `serving.client.errors` draws the tree.
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
        self._http = httpx.Client(base_url=self._core.url, headers=self._core.headers, verify=verify)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def score(
        self,
        frame: FrameLike,
        *,
        pair: str | None = None,
        version: str | None = None,
        operating_point: str | None = None,
        evidence: bool = False,
    ) -> Score:
        """Score one frame: a path, the bytes of an image file, a Pillow image or RGB uint8 [H, W, 3]."""
        options = Options(pair=pair, version=version, operating_point=operating_point, evidence=evidence)
        return self._run(self._core.score(payload_of(frame), options))

    def score_many(
        self,
        frames: Iterable[FrameLike],
        *,
        pair: str | None = None,
        version: str | None = None,
        operating_point: str | None = None,
        evidence: bool = False,
        progress: Progress | None = None,
    ) -> list[Score | Failure]:
        """A `Score`, or a `Failure` that says why not, for every frame, in order.

        Frames are read when it is their turn, so an iterable may be longer than memory. What concerns the whole
        call, such as a wrong key or an unknown pair, is raised. `progress` is called from this thread.
        """
        options = Options(pair=pair, version=version, operating_point=operating_point, evidence=evidence)
        batching = self._core.batching
        gathering = Gathering(frames, progress)
        pending: dict[Future[list[Score | Failure]], list[int]] = {}
        with ThreadPoolExecutor(batching.concurrency, thread_name_prefix="pipeprobe-client") as pool:
            try:
                for indices, payloads, failures in batches_of(
                    frames, max_frames=batching.max_frames, max_bytes=batching.max_bytes
                ):
                    gathering.add_failures(failures)
                    if payloads:
                        pending[pool.submit(self._score_batch, payloads, options)] = indices
                    while len(pending) >= batching.concurrency:
                        _collect(pending, gathering)
                while pending:
                    _collect(pending, gathering)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return gathering.in_order()

    def score_video(
        self,
        path: str | os.PathLike[str],
        *,
        options: VideoOptions | None = None,
        upload_s: float = 3600.0,
        progress: VideoProgress | None = None,
    ) -> VideoResult:
        """Send a whole inspection, wait for its end, and return its findings.

        Being interrupted cancels the job. If the service cannot be reached any more, the job goes on there, and the
        error's notes name it: `video_result` waits for it. Raises `VideoFailedError` if the job fails.
        """
        job = self.submit_video(path, options=options, upload_s=upload_s)
        try:
            return self.video_result(job.id, progress=progress)
        except ClientError as error:
            error.add_note(f"video job {job.id}")
            raise
        except BaseException:
            with contextlib.suppress(ClientError):
                self.cancel_video(job.id)
            raise

    def submit_video(
        self, path: str | os.PathLike[str], *, options: VideoOptions | None = None, upload_s: float = 3600.0
    ) -> VideoJob:
        """Send a whole inspection within `upload_s` and do not wait for what becomes of it."""
        return self._run(submit_video(self._core, Path(path), options or VideoOptions(), upload_s=upload_s))

    def video_job(self, job_id: str) -> VideoJob:
        """How far a job is."""
        return self._run(video_job(self._core, job_id))

    def video_result(self, job_id: str, *, progress: VideoProgress | None = None) -> VideoResult:
        """Wait for a job's end and return its findings."""
        return self._run(follow_video(self._core, job_id, progress))

    def cancel_video(self, job_id: str) -> None:
        """End a job that waits or runs; delete one that has ended, with its results."""
        self._run(cancel_video(self._core, job_id))

    def score_raw(
        self,
        frames: NDArray[np.uint8],
        *,
        pair: str | None = None,
        version: str | None = None,
        evidence: bool = False,
    ) -> list[Score]:
        """A score for each frame, uint8 [N, S, S, 3] at the pair's size S: decoded and resized by the caller."""
        return self._run(self._core.score_raw(frames, Options(pair=pair, version=version, evidence=evidence)))

    def pair_facts(self, name: str, version: str | None = None) -> PairFacts:
        """What a served pair says of itself: its manifest, and what scores with it."""
        return self._run(self._core.pair_facts(name, version))

    def models(self) -> list[Model]:
        """The pairs that are served."""
        return self._run(self._core.models())

    def ready(self) -> bool:
        """Whether the service can be reached and is ready to score. Asked once; a service that is not is no error."""
        return self._run(self._core.ready())

    def _score_batch(self, payloads: list[Payload], options: Options) -> list[Score | Failure]:
        return self._run(self._core.score_batch(payloads, options))

    def _run(self, steps: Steps[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                wanted = steps.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            outcome = self._do(wanted)

    def _do(self, wanted: Send | Pause) -> Outcome:
        if isinstance(wanted, Pause):
            time.sleep(wanted.seconds)
            return None
        ends_at = time.monotonic() + wanted.timeout_s
        call = wanted.call
        try:
            with self._http.stream(
                call.method,
                call.path,
                params=call.params,
                headers=headers_of_call(call),
                content=_chunks(call.content) if isinstance(call.content, Path) else call.content,
                files=call.files,
                timeout=self._core.timeout(wanted.timeout_s),
            ) as response:
                return Reply(status=response.status_code, headers=response.headers, body=_read(response, ends_at))
        except httpx.RequestError as error:
            return error


def _collect(pending: dict[Future[list[Score | Failure]], list[int]], gathering: Gathering) -> None:
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        gathering.add(pending.pop(future), future.result())


def _read(response: httpx.Response, ends_at: float) -> bytes:
    """The whole body; the transport's own timeout bounds only the silence between two parts of it."""
    parts = []
    for part in response.iter_bytes():
        parts.append(part)
        if time.monotonic() > ends_at:
            raise httpx.ReadTimeout("the answer did not end before the deadline", request=response.request)
    return b"".join(parts)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
