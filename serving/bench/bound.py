"""The bound: decoding and the session in one process, with no HTTP between them. Shape legend: N frames, S side."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np

from serving.decode_pool import DecodePool
from serving.devices import available_cores
from serving.frames import Frame, decode_bytes
from serving.pairs.pair import Pair
from serving.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One way of sharing the cores: threads of a session run, runs at the same time, decoding threads, batch size."""

    threads: int
    scorers: int
    decoders: int
    batch: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class BoundRun:
    """What one setup did: frames per second, processor milliseconds per frame, and the cores it was given."""

    setup: Setup
    frames_per_s: float
    cpu_ms: float
    cores: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class AloneTimes:
    """Median milliseconds of one frame on an idle process: decoding it, then scoring it in a batch of one."""

    decode_ms: float
    infer_ms: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def candidate_setups(cores: int | None = None) -> list[Setup]:
    """The setups worth trying on a CPU of that many cores (default: this one's), the service's own first."""
    cores = cores or available_cores()
    shares = [(1, cores), (cores, 2), (cores, 1), (1, 1)] if cores > 1 else [(1, 1)]
    return [
        Setup(threads=threads, scorers=scorers, decoders=cores, batch=batch)
        for batch in (8, 4, 16)
        for threads, scorers in shares
    ]


class Bound:
    """Measures setups of one pair; sessions are opened once and kept warm between measurements."""

    def __init__(self, pair: Pair, jpegs: Sequence[bytes], *, device: str = "cpu", variant: str | None = None) -> None:
        self._pair, self._jpegs = pair, jpegs
        self._options: dict[str, Any] = {"device": device, "variant": variant}
        self._side = pair.manifest.image_size
        self._scorers: dict[tuple[int, int], Scorer] = {}

    def run(self, setup: Setup, seconds: float) -> BoundRun:
        """Decode and score for that long, one overlapping the other."""
        scorer = self._scorer(setup.threads, setup.batch)
        began, used = time.perf_counter(), time.process_time()
        n_frames = _overlap(scorer, self._decode, itertools.cycle(self._jpegs), setup, seconds)
        took_s, used_s = time.perf_counter() - began, time.process_time() - used
        return BoundRun(
            setup=setup,
            frames_per_s=n_frames / took_s,
            cpu_ms=1000 * used_s / max(1, n_frames),
            cores=used_s / took_s,
        )

    def best(self, setups: Iterable[Setup], seconds: float) -> list[BoundRun]:
        """A run of each setup, the fastest first."""
        return sorted((self.run(setup, seconds) for setup in setups), key=lambda run: -run.frames_per_s)

    def alone(self, n_frames: int = 30) -> AloneTimes:
        """Time frames one after the other, with all cores for each."""
        scorer = self._scorer(available_cores(), 4)
        frame = self._decode(self._jpegs[0])
        return AloneTimes(
            decode_ms=_median_ms([partial(self._decode, jpeg) for jpeg in self._cycle(n_frames)]),
            infer_ms=_median_ms([lambda: scorer.score(frame[None])] * n_frames),
        )

    def _cycle(self, n: int) -> Iterable[bytes]:
        return itertools.islice(itertools.cycle(self._jpegs), n)

    def _decode(self, data: bytes) -> Frame:
        return decode_bytes(data, self._side)

    def _scorer(self, threads: int, batch: int) -> Scorer:
        key = (threads, batch)
        if key not in self._scorers:
            self._scorers[key] = Scorer(self._pair, threads=threads, max_batch=batch, **self._options)
            self._scorers[key].warm_up()
        return self._scorers[key]


def _overlap(
    scorer: Scorer, decode: Callable[[bytes], Frame], jpegs: Iterable[bytes], setup: Setup, seconds: float
) -> int:
    """Frames scored in that time. Enough are in flight to keep every thread busy, and no more."""
    decoded: SimpleQueue[Frame | None] = SimpleQueue()
    waiting, lock = iter(jpegs), threading.Lock()
    pool = DecodePool(setup.decoders)
    stop_at = time.perf_counter() + seconds
    counts = [0] * setup.scorers

    def feed() -> None:
        with lock:
            jpeg = next(waiting)
        pool.submit(lambda data: decoded.put(decode(data)), jpeg)

    def score(index: int) -> None:
        while time.perf_counter() < stop_at:
            frames: list[Frame] = []
            while len(frames) < setup.batch and (frame := decoded.get()) is not None:
                frames.append(frame)
                feed()
            if len(frames) == setup.batch:
                scorer.score(np.stack(frames))
                counts[index] += len(frames)

    for _ in range(setup.batch * (setup.scorers + 1) + setup.decoders):
        feed()
    threads = [threading.Thread(target=score, args=(index,)) for index in range(setup.scorers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.shutdown()
    return sum(counts)


def _median_ms(calls: Sequence[Callable[[], object]]) -> float:
    calls[0]()
    times = []
    for call in calls:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))
