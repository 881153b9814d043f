"""What all scoring routes do: find the engine, name the caller, and wait for results until the caller has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import ClientDisconnect, Request

from serving.batching import Prepare, ScoredFrame
from serving.engine import Engine
from serving.pairs.lanes import Lane


def engine_of(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def caller_of(request: Request) -> str:
    """Whose requests are counted together: an API key's, or an address's. A proxy's callers are one caller."""
    key = getattr(request.state, "caller", None)
    return f"key {key}" if key else f"address {request.client.host if request.client else 'unknown'}"


async def score_frames(
    request: Request, lane: Lane, frames: Sequence[bytes], deadline_s: float, *, prepare: Prepare | None = None
) -> list[ScoredFrame | BaseException]:
    """A result or an error for each frame; raises `ClientDisconnect` as soon as the caller has gone.

    `prepare` turns a frame's bytes into a frame; None decodes an image. Whatever ends this early, the deadline
    included, also takes the frames out of the queue.
    """
    request.state.n_frames = len(frames)
    lane.batcher.check_room(len(frames), deadline_s)
    futures = [lane.batcher.submit(data, prepare or lane.decode) for data in frames]
    scored = asyncio.gather(*futures, return_exceptions=True)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((scored, gone), return_when=asyncio.FIRST_COMPLETED)
        if not scored.done():
            raise ClientDisconnect
        return scored.result()
    finally:
        scored.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
