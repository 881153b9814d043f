"""Tens of thousands of mixed requests: nothing may grow. `make test-soak`, and a minute's worth less in every run."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from reliability import scale
from reliability.frames import KnownFrame, known_frames, models_for, served
from reliability.hostile_requests import multipart
from support.live_service import LiveService
from support.process_watch import Held, held_by
from support.raw_http import address_of, request_bytes, send_raw

CALLERS = 4
TIMEOUT_S = 60.0
# The allocator and the caches of a worker fill during the first requests.
WARM_UP_SHARE = 0.2
MAX_GROWTH = 0.05
# Connections of callers that have gone are noticed, and their descriptors closed, within this time.
SETTLE_S = 20.0

JOBS = ("single",) * 6 + ("batch",) * 2 + ("bad",) + ("gone",)
"""What the requests are, by their shares."""


class Caller:
    """One caller with a connection that is kept, as real clients do."""

    def __init__(self, service: LiveService, frames: list[KnownFrame], seed: str) -> None:
        self._address = address_of(service.url)
        self._frames = frames
        self._draw = random.Random(seed)
        self._http = httpx.Client(base_url=service.url, timeout=TIMEOUT_S)

    def run(self, n_requests: int) -> Counter[str]:
        """Send `n_requests`; how many of each job got which status."""
        counts: Counter[str] = Counter()
        with self._http:
            for _ in range(n_requests):
                job = self._draw.choice(JOBS)
                counts[f"{job} {getattr(self, '_' + job)()}"] += 1
        return counts

    def _single(self) -> int:
        frame = self._draw.choice(self._frames)
        response = self._http.post(
            "/v1/score", content=frame.data, params={"evidence": self._draw.choice(("true", "0"))}
        )
        assert response.status_code == 200, response.text
        assert frame.is_scored_by(response.json()["score"]), response.text
        return response.status_code

    def _batch(self) -> int:
        frames = self._draw.choices(self._frames, k=self._draw.randrange(1, 9))
        files = [("files", (str(index), frame.data)) for index, frame in enumerate(frames)]
        response = self._http.post("/v1/score/batch", files=[*files, ("files", ("bad", b"no image"))])
        assert response.status_code == 200, response.text
        *results, bad = response.json()["results"]
        assert bad["error"]["status"] == 415
        assert all(frame.is_scored_by(result["score"]) for frame, result in zip(frames, results, strict=True))
        return response.status_code

    def _bad(self) -> int:
        frame = self._draw.choice(self._frames)
        body = self._draw.choice((b"", b"no image", frame.data[: len(frame.data) // 2]))
        response = self._http.post("/v1/score", content=body)
        assert response.status_code in (415, 422), response.text
        return response.status_code

    def _gone(self) -> int:
        frame = self._draw.choice(self._frames)
        one = request_bytes("POST", "/v1/score", frame.data)
        request = self._draw.choice((one, multipart("/v1/score/batch", [("files", "a", frame.data)] * 4)))
        return send_raw(
            self._address,
            [request[: self._draw.choice((len(request), len(request) // 2))]],
            limit_s=TIMEOUT_S,
            hang_up=True,
        ).status


def soak(service: LiveService, frames: list[KnownFrame], n_requests: int, *, max_growth: float) -> None:
    """Send `n_requests`, the first share of them to warm up, and compare what the workers hold; prints figures."""
    workers = service.workers()
    warm_up = int(n_requests * WARM_UP_SHARE)
    started_at = time.monotonic()
    at_start = held_by(workers)
    counts = send(service, frames, warm_up, "warm-up")
    warm = settled(service, None)
    counts += send(service, frames, n_requests - warm_up, "soak")
    end = settled(service, warm)
    seconds = time.monotonic() - started_at
    growth = end.rss / warm.rss - 1
    print(f"\n{counts.total()} requests in {seconds:.0f} s ({counts.total() / seconds:.0f}/s)")
    print(", ".join(f"{job}: {n}" for job, n in sorted(counts.items())))
    print(f"at start:         {at_start}\nafter {warm_up} requests: {warm}\nat the end:       {end}")
    print(f"RSS grew by {100 * growth:+.2f} % (allowed: {100 * max_growth:.0f} %)")
    assert service.workers() == workers, "a worker died"
    assert growth < max_growth
    assert end.descriptors <= warm.descriptors
    assert end.threads <= warm.threads
    assert "Traceback" not in service.log.read_text(), service.log.read_text()[-3000:]


def send(service: LiveService, frames: list[KnownFrame], n_requests: int, phase: str) -> Counter[str]:
    callers = [Caller(service, frames, f"{scale.SEED}/{phase}/{index}") for index in range(CALLERS)]
    with ThreadPoolExecutor(CALLERS) as pool:
        return sum(pool.map(lambda caller: caller.run(n_requests // CALLERS), callers), Counter())


def settled(service: LiveService, before: Held | None) -> Held:
    """What the workers hold once the callers who left are noticed: at most what they held `before`."""
    deadline = time.monotonic() + (SETTLE_S if before else 2.0)
    while True:
        held = held_by(service.workers())
        if time.monotonic() > deadline:
            return held
        if before and held.descriptors <= before.descriptors and held.threads <= before.threads:
            return held
        time.sleep(0.25)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return models_for(tmp_path)


def test_hundreds_of_requests_leave_nothing_behind(models: Path) -> None:
    with served(models, workers=1) as service:
        # So few requests do not fill what a worker caches: memory is held to much less here.
        soak(service, known_frames(models), 600, max_growth=0.25)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_tens_of_thousands_of_requests_leave_nothing_behind(models: Path) -> None:
    with served(models) as service:
        soak(service, known_frames(models), scale.REQUESTS, max_growth=MAX_GROWTH)
