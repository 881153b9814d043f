"""The micro-batcher: no waiting when idle, batches under load, nobody's fault is anybody else's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.batching import Batcher, ScoredFrame
from serving.decode_pool import DecodePool
from serving.errors import NotAnImageError, OverloadedError, PipeprobeError
from serving.scorer import Scores

SIDE = 4


class Observer:
    """Remembers the largest queue and every batch size."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.depths: list[int] = []

    def queued(self, n_frames: int) -> None:
        self.depths.append(n_frames)

    def batch(self, n_frames: int) -> None:
        self.batches.append(n_frames)


class Gate:
    """A scorer that waits to be let on, and whose score is a frame's first value."""

    def __init__(self, *, open_: bool = True) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.seen: list[int] = []
        if open_:
            self.open.set()

    def score(self, frames: NDArray[np.uint8]) -> Scores:
        self.entered.set()
        assert self.open.wait(10)
        values = frames[:, 0, 0, 0]
        self.seen.extend(values.tolist())
        return value_scores(values)


def value_scores(values: NDArray[Any]) -> Scores:
    column = values.astype(np.float32)
    return Scores(
        score=column,
        logit=-column,
        embedding=column[:, None],
        evidence=np.repeat(column, 4).reshape(-1, 2, 2),
    )


def frame_of(payload: bytes) -> NDArray[np.uint8]:
    """A frame filled with the payload's one byte; an empty payload is no image, two bytes are a bug."""
    if not payload:
        raise NotAnImageError("is empty")
    if len(payload) > 1:
        raise ZeroDivisionError
    return np.full((SIDE, SIDE, 3), payload[0], np.uint8)


@asynccontextmanager
async def batcher_of(
    score: Callable[[NDArray[np.uint8]], Scores], *, observer: Observer | None = None, **options: Any
) -> AsyncIterator[Batcher]:
    pool = DecodePool(2)
    limits = {"max_batch": 8, "max_frames": 1000} | options
    batcher = Batcher(score, pool=pool, observer=observer or Observer(), **limits)
    batcher.start()
    try:
        yield batcher
    finally:
        await asyncio.to_thread(batcher.stop)
        pool.shutdown()


def test_scores_one_frame_alone_at_once() -> None:
    async def main() -> ScoredFrame:
        async with batcher_of(Gate().score, observer=observer) as batcher:
            return await asyncio.wait_for(batcher.submit(b"\x07", frame_of), 5)

    observer = Observer()
    scored = asyncio.run(main())
    assert (scored.score, scored.logit) == (7, -7)
    assert scored.evidence.tolist() == [[7, 7], [7, 7]]
    assert observer.batches == [1]
    assert min(scored.decode_s, scored.queue_s, scored.infer_s) >= 0


def test_batches_what_queued_up_while_the_scorer_was_busy() -> None:
    async def main() -> list[float]:
        async with batcher_of(gate.score, observer=observer) as batcher:
            first = batcher.submit(b"\x00", frame_of)
            assert await asyncio.to_thread(gate.entered.wait, 5)
            others = [batcher.submit(bytes([i]), frame_of) for i in range(1, 12)]
            while len(batcher._queue) < 11:  # all decoded and waiting
                await asyncio.sleep(0.001)
            gate.open.set()
            return [scored.score for scored in await asyncio.gather(first, *others)]

    gate, observer = Gate(open_=False), Observer()
    assert asyncio.run(main()) == list(range(12))
    assert observer.batches == [1, 8, 3]
    assert (max(observer.depths), observer.depths[-1]) == (12, 0)


def test_only_frames_that_are_alone_are_scored_as_such() -> None:
    async def main() -> None:
        async with batcher_of(busy.score, score_alone=alone.score) as batcher:
            first = batcher.submit(b"\x01", frame_of)
            assert await asyncio.to_thread(alone.entered.wait, 5)
            others = [batcher.submit(bytes([i]), frame_of) for i in range(2, 12)]
            while len(batcher._queue) < 10:  # all decoded and waiting
                await asyncio.sleep(0.001)
            alone.open.set()
            await asyncio.gather(first, *others)
            await batcher.submit(b"\x63", frame_of)

    busy, alone = Gate(), Gate(open_=False)
    asyncio.run(main())
    # Beside the first eight others wait; whether the last two are alone depends on how soon the eight have left.
    assert busy.seen[:8] == list(range(2, 10))
    assert (alone.seen[0], alone.seen[-1]) == (1, 99)
    assert sorted(busy.seen + alone.seen) == [*range(1, 12), 99]


def test_several_scorers_score_at_the_same_time() -> None:
    both = threading.Barrier(2)

    def score(frames: NDArray[np.uint8]) -> Scores:
        both.wait(10)  # broken, and an error, unless another thread comes here as well
        return value_scores(frames[:, 0, 0, 0])

    async def main() -> list[float]:
        async with batcher_of(score, n_scorers=2, max_batch=1) as batcher:
            futures = [batcher.submit(bytes([i]), frame_of) for i in range(6)]
            scores = [scored.score for scored in await asyncio.gather(*futures)]
            assert batcher.alive
        assert not batcher.alive
        return scores

    assert asyncio.run(main()) == list(range(6))


@pytest.mark.parametrize("n_scorers", [1, 3])
def test_results_belong_to_their_requests(n_scorers: int) -> None:
    async def client(batcher: Batcher, seed: int) -> None:
        for step in range(20):
            value = (seed * 20 + step) % 256
            if value % 7 == 0:
                with pytest.raises(NotAnImageError):
                    await batcher.submit(b"", frame_of)
            elif value % 11 == 0:
                future = batcher.submit(bytes([value]), frame_of)
                await asyncio.sleep(0)
                future.cancel()
            else:
                assert (await batcher.submit(bytes([value]), frame_of)).score == value

    async def main() -> int:
        async with batcher_of(Gate().score, n_scorers=n_scorers) as batcher:
            await asyncio.gather(*(client(batcher, seed) for seed in range(32)))
            return batcher.frames

    assert asyncio.run(main()) == 0


def test_cancelled_frames_leave_the_queue() -> None:
    async def main() -> int:
        async with batcher_of(gate.score, max_frames=3) as batcher:
            first = batcher.submit(b"\x01", frame_of)
            assert await asyncio.to_thread(gate.entered.wait, 5)
            dropped, kept = batcher.submit(b"\x02", frame_of), batcher.submit(b"\x03", frame_of)
            with pytest.raises(OverloadedError):
                batcher.check_room(1, 60)
            dropped.cancel()
            await asyncio.sleep(0)
            batcher.check_room(1, 60)
            gate.open.set()
            await asyncio.gather(first, kept)
            return batcher.frames

    gate = Gate(open_=False)
    assert asyncio.run(main()) == 0
    assert gate.seen == [1, 3]


def test_refuses_what_could_not_be_scored_in_time() -> None:
    async def main() -> OverloadedError:
        async with batcher_of(gate.score) as batcher:
            batcher._s_per_frame = 0.5
            batcher.submit(b"\x01", frame_of)
            batcher.check_room(1, 2.0)
            with pytest.raises(OverloadedError) as caught:
                batcher.check_room(9, 2.0)
            gate.open.set()
            return caught.value

    gate = Gate(open_=False)
    assert asyncio.run(main()).retry_after_s == pytest.approx(4.0)


def test_takes_the_delay_of_the_event_loop_off_the_time_that_is_left() -> None:
    async def main() -> None:
        async with batcher_of(gate.score, lag_s=lambda: late[0]) as batcher:
            batcher._s_per_frame = 0.1
            batcher.check_room(1, 2.0)
            late[0] = 0.3
            batcher.check_room(1, 2.0)  # alone, a frame is always taken: it is how the service finds out
            batcher.submit(b"\x01", frame_of)
            with pytest.raises(OverloadedError):
                batcher.check_room(1, 2.0)
            late[0] = 0.1
            batcher.check_room(1, 2.0)
            gate.open.set()

    gate, late = Gate(open_=False), [0.0]
    asyncio.run(main())


def test_does_not_wait_for_results_to_know_that_there_are_none() -> None:
    """Eight frames, and none done after 0.2 s: a ninth is not done in the 0.4 s that are half of its deadline."""

    async def main() -> None:
        async with batcher_of(gate.score) as batcher:
            for i in range(8):
                batcher.submit(bytes([i]), frame_of)
            batcher.check_room(1, 60)
            await asyncio.sleep(0.2)
            with pytest.raises(OverloadedError):
                batcher.check_room(1, 0.8)
            gate.open.set()

    gate = Gate(open_=False)
    asyncio.run(main())


def test_expects_frames_to_take_as_long_as_they_do_whatever_holds_them_up() -> None:
    """Decoding 10 ms a frame on two threads, with a session that takes no time: 5 ms a frame, and not none."""

    def slow(payload: bytes) -> NDArray[np.uint8]:
        time.sleep(0.01)
        return frame_of(payload)

    async def main() -> float:
        async with batcher_of(Gate().score) as batcher:
            await asyncio.gather(*(batcher.submit(bytes([i]), slow) for i in range(60)))
            return batcher._s_per_frame

    assert asyncio.run(main()) > 0.004


def test_bad_frames_fail_alone() -> None:
    def score(frames: NDArray[np.uint8]) -> Scores:
        """Fails for the whole batch if one frame is 13."""
        values = frames[:, 0, 0, 0]
        if 13 in values:
            raise RuntimeError("the secret of another caller")
        return value_scores(values)

    async def main() -> list[Any]:
        async with batcher_of(score) as batcher:
            payloads = [b"\x01", b"", b"\x0d", b"xx", b"\x02"]
            futures = [batcher.submit(payload, frame_of) for payload in payloads]
            return await asyncio.gather(*futures, return_exceptions=True)

    one, empty, poisoned, bug, two = asyncio.run(main())
    assert (one.score, two.score) == (1, 2)
    assert isinstance(empty, NotAnImageError)
    for error in (poisoned, bug):
        assert type(error) is PipeprobeError
        assert "secret" not in str(error)


def test_stop_finishes_what_is_queued() -> None:
    async def main() -> float:
        async with batcher_of(gate.score) as batcher:
            future = batcher.submit(b"\x05", frame_of)
            assert await asyncio.to_thread(gate.entered.wait, 5)
            gate.open.set()
            await asyncio.to_thread(batcher.stop)
            assert not batcher.alive
            return (await future).score

    gate = Gate(open_=False)
    assert asyncio.run(main()) == 5
