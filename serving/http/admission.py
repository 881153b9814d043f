"""What every scoring request goes through, whatever its form: counted in, read, queued, waited for, timed.

    async with admitted(request, lane) as admission:
        data = await read_frame(request, admission.budget, admission.settings)
        outcomes = await admission.score([data])
        return admission.answered(Response(...))

All of it within the deadline; whatever ends it early takes the request's frames out of the queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from serving.batching import Prepare, ScoredFrame
from serving.engine import RequestBudget
from serving.http.routing import caller_of, engine_of
from serving.limits import Settings
from serving.pairs.lanes import Lane


class Admission:
    """One request that was let in, on its way from the first byte of its body to its answer."""

    def __init__(self, request: Request, lane: Lane, budget: RequestBudget, settings: Settings) -> None:
        self.lane, self.budget, self.settings = lane, budget, settings
        self._request = request
        self._began_at = self._read_at = self._scored_at = time.perf_counter()

    @property
    def read_s(self) -> float:
        """Seconds from the request's admission until its frames had come."""
        return self._read_at - self._began_at

    @property
    def total_s(self) -> float:
        """Seconds from the request's admission until its last frame was scored."""
        return self._scored_at - self._began_at

    async def score(
        self, frames: Sequence[bytes], *, prepare: Prepare | None = None
    ) -> list[ScoredFrame | BaseException]:
        """A result or an error for each frame; raises `ClientDisconnect` as soon as the caller has gone.

        `prepare` turns a frame's bytes into a frame; None decodes an image. Raises `OverloadedError` if so many frames
        cannot be scored in what is left of the time.
        """
        self._read_at = time.perf_counter()
        self._request.state.n_frames = len(frames)
        batcher = self.lane.batcher
        batcher.check_room(len(frames), self.settings.deadline_s - self.read_s)
        futures = [batcher.submit(data, prepare or self.lane.decode) for data in frames]
        scored = asyncio.gather(*futures, return_exceptions=True)
        gone = asyncio.ensure_future(_disconnected(self._request))
        try:
            await asyncio.wait((scored, gone), return_when=asyncio.FIRST_COMPLETED)
            if not scored.done():
                raise ClientDisconnect
            self._scored_at = time.perf_counter()
            return scored.result()
        finally:
            scored.cancel()
            gone.cancel()

    def answered(self, response: Response) -> Response:
        """The response, once the times of its request are kept in the pair's metrics."""
        now, telemetry = time.perf_counter(), self.lane.telemetry
        telemetry.stage("read", self.read_s)
        telemetry.stage("encode", now - self._scored_at)
        telemetry.stage("total", now - self._began_at)
        return response


@asynccontextmanager
async def admitted(request: Request, lane: Lane) -> AsyncIterator[Admission]:
    """Let a request in, if there is room for one frame more; the lane stays in service until it is answered.

    Raises `CallerBusyError`, `OverloadedError`, and `DeadlineExceededError` when the time is over.
    """
    engine = engine_of(request)
    with engine.request(caller_of(request)) as budget, lane.in_use():
        async with budget.deadline():
            lane.batcher.check_room(1, engine.settings.deadline_s)
            yield Admission(request, lane, budget, engine.settings)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
