"""Promotion of a pair while a real service answers: nobody is dropped, and what is broken changes nothing."""

from __future__ import annotations

import asyncio
import io
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import httpx
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry
from support.live_service import LiveService, live_processes
from support.tiny_pair import red_frames, write_second_version, write_tiny_pair

from serving.batching import Batcher
from serving.decode_pool import DecodePool
from serving.frames import Frame
from serving.monitoring.telemetry import Telemetry
from serving.pairs import index_watch
from serving.pairs.lanes import Lane, Lanes
from serving.pairs.pair import Pair, find_pair
from serving.pairs.pair_index import editing, read_index, replace_index
from serving.pairs.promotion import promote, rollback
from serving.scorer import Scorer

# A version that calls red frames normal.
OTHERWISE = -20.0


def red_png() -> bytes:
    data = io.BytesIO()
    Image.fromarray(red_frames(1)[0]).save(data, "PNG")
    return data.getvalue()


RED = red_png()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """tiny 1.0.0, the default; 2.0.0 and 3.0.0, which answer otherwise, beside it."""
    write_tiny_pair(tmp_path / "models")
    write_second_version(tmp_path / "models", bias=OTHERWISE)
    write_second_version(tmp_path / "models", version="3.0.0", bias=OTHERWISE)
    return tmp_path / "models"


@contextmanager
def service(models: Path, *, workers: int = 1, **settings: object) -> Iterator[tuple[httpx.Client, LiveService]]:
    """A service that looks at the index often, and a client that takes a new connection for each request."""
    with live_processes(models=models, workers=workers, settings={"watch_s": 0.1} | settings) as live:
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=live.url, timeout=20, limits=limits) as client:
            yield client, live


def answered_by(client: httpx.Client, **query: str) -> str:
    response = client.post("/v1/score", params=query, content=RED)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["verdict"] == ("defect" if answer["pair_version"] == "1.0.0" else "normal")
    return str(answer["pair_version"])


def wait_for(holds: Callable[[], bool], what: str, limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.05)


def metric(client: httpx.Client, line_start: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(line_start))


def make_default_unverified(models: Path, folder: str) -> None:
    """What promotion refuses to do: a file that was damaged, or has not arrived, after it verified."""
    with editing(models):
        replace_index(models, read_index(models).with_default(folder))


class Callers:
    """Threads that ask without a pause, and keep which version answered each of their requests."""

    def __init__(self, client: httpx.Client, n: int) -> None:
        self._client = client
        self._stop = Event()
        self.answers: list[list[str]] = [[] for _ in range(n)]
        self._pool = ThreadPoolExecutor(n)
        self._futures = [self._pool.submit(self._ask, answers) for answers in self.answers]

    def _ask(self, answers: list[str]) -> None:
        while not self._stop.is_set():
            answers.append(answered_by(self._client))

    def wait_for(self, version: str) -> None:
        """Until each caller has been answered by `version` last."""

        def all_answered() -> bool:
            for future in self._futures:
                if future.done():
                    future.result()
            return all(answers and answers[-1] == version for answers in self.answers)

        wait_for(all_answered, f"every caller is answered by {version}")

    def finish(self) -> None:
        """Stop asking; raises the first answer that was none."""
        self._stop.set()
        for future in self._futures:
            future.result(timeout=30)
        self._pool.shutdown()


def changes(answers: list[str]) -> list[str]:
    """The versions in the order in which they took over."""
    return [version for i, version in enumerate(answers) if i == 0 or answers[i - 1] != version]


def test_promotion_and_rollback_under_load_drop_nobody(models: Path) -> None:
    with service(models) as (client, _):
        callers = Callers(client, 4)
        try:
            callers.wait_for("1.0.0")
            promote(models, "tiny@2.0.0")
            callers.wait_for("2.0.0")
            assert answered_by(client, version="1.0.0") == "1.0.0"
            rollback(models)
            callers.wait_for("1.0.0")
            assert answered_by(client, pair="tiny", version="2.0.0") == "2.0.0"
        finally:
            callers.finish()
        assert all(changes(answers) == ["1.0.0", "2.0.0", "1.0.0"] for answers in callers.answers)
        assert metric(client, 'pipeprobe_promotions_total{outcome="ok"}') == 2
        assert metric(client, 'pipeprobe_default_pair{pair="tiny",version="1.0.0"}') == 1
        assert metric(client, 'pipeprobe_default_pair{pair="tiny",version="2.0.0"}') == 0
        assert metric(client, "pipeprobe_rejected") == 0


def test_older_defaults_drain_and_end(models: Path) -> None:
    with service(models, keep_versions=0) as (client, live):
        slow = SlowSender(client)
        promote(models, "tiny@2.0.0")
        wait_for(lambda: answered_by(client) == "2.0.0", "the promotion is picked up")
        gone = client.post("/v1/score?version=1.0.0", content=RED)
        assert gone.status_code == 404
        assert "served: tiny 2.0.0" in gone.json()["detail"]
        assert client.get("/v2/models").json()["models"] == [{"name": "tiny", "version": "2.0.0", "default": True}]
        # A request that had begun before is still answered, by the version it began with.
        assert '"pair_version":"1.0.0"' in slow.finish()
        is_served = 'pipeprobe_pair_info{device="cpu",encoder="patch_mean",method="none",pair="tiny"'
        wait_for(lambda: metric(client, is_served) == 1, "only one version is said to be served")
        threads = n_threads(live)
        for version in ("1.0.0", "2.0.0", "1.0.0", "2.0.0"):
            promote(models, f"tiny@{version}")
            wait_for(lambda version=version: answered_by(client) == version, f"{version} is picked up")  # type: ignore[misc]
        wait_for(lambda: metric(client, is_served) == 1, "the versions before have ended")
        assert n_threads(live) <= threads + 2, "lanes leave threads behind"


def n_threads(live: LiveService) -> int:
    return sum(worker.num_threads() for worker in live.workers())


class SlowSender:
    """A scoring request whose body comes only when it is told to."""

    def __init__(self, client: httpx.Client) -> None:
        url = client.base_url
        self._connection = socket.create_connection((url.host, url.port or 0), timeout=20)
        head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(RED)}\r\n\r\n"
        self._connection.sendall(head.encode() + RED[:10])
        wait_for(lambda: metric(client, "pipeprobe_requests_in_flight") == 1, "the slow request has begun")

    def finish(self) -> str:
        self._connection.sendall(RED[10:])
        answer = b""
        while part := self._connection.recv(65536):
            answer += part
        self._connection.close()
        assert answer.startswith(b"HTTP/1.1 200"), answer
        return answer.decode()


def test_a_broken_candidate_leaves_the_old_one_serving(models: Path) -> None:
    model = models / "tiny@2.0.0" / "model.fp32.onnx"
    sound = model.read_bytes()
    with service(models) as (client, live):
        model.write_bytes(sound[:-1] + b"\0")
        make_default_unverified(models, "tiny@2.0.0")
        failed = 'pipeprobe_promotions_total{outcome="failed"}'
        wait_for(lambda: metric(client, failed) == 1, "the candidate is refused")
        assert metric(client, "pipeprobe_promotion_failing") == 1
        assert answered_by(client) == "1.0.0"
        assert client.get("/readyz").status_code == 200
        assert re.search(
            r"cannot be served: .*was changed or damaged.*tiny 1\.0\.0 goes on serving", live.log.read_text()
        )
        # A worker that is started anew meanwhile serves the last default that is sound.
        (worker,) = live.workers()
        worker.kill()
        worker.wait(timeout=10)
        wait_for(lambda: is_ready(client), "the worker is back")
        assert answered_by(client) == "1.0.0"
        (models / "index.json").write_text("{")
        wait_for(lambda: "is not readable JSON" in live.log.read_text(), "a damaged index is reported")
        assert answered_by(client) == "1.0.0"
        model.write_bytes(sound)
        (models / "index.json").write_text('{"default": "tiny@2.0.0", "pairs": []}')
        wait_for(lambda: answered_by(client) == "2.0.0", "the mended pair is picked up")
        assert metric(client, "pipeprobe_promotion_failing") == 0


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_every_worker_follows(models: Path) -> None:
    with service(models, workers=2) as (client, _):
        callers = Callers(client, 4)
        try:
            callers.wait_for("1.0.0")
            promote(models, "tiny@2.0.0")
            default = 'pipeprobe_default_pair{pair="tiny",version="2.0.0"}'
            wait_for(lambda: metric(client, default) == 2, "both workers answer with the new default")
            asked = [len(answers) for answers in callers.answers]
            callers.wait_for("2.0.0")
        finally:
            callers.finish()
        for n, answers in zip(asked, callers.answers, strict=True):
            assert set(answers) == {"1.0.0", "2.0.0"}
            # One may have been on its way when both workers had switched.
            assert set(answers[n + 1 :]) <= {"2.0.0"}


def test_pinned_pairs_stay(models: Path) -> None:
    with service(models, pair="tiny@1.0.0,tiny@3.0.0") as (client, _):
        promote(models, "tiny@2.0.0")
        assert answered_by(client, version="3.0.0") == "3.0.0"
        time.sleep(0.5)
        assert answered_by(client) == "1.0.0"
        versions = client.get("/v2/models/tiny").json()["versions"]
        assert versions == ["1.0.0", "3.0.0"]
        assert client.get("/v2/models/tiny/versions/3.0.0").json()["properties"]["version"] == "3.0.0"


# The watch alone.


def make_lane(pair: Pair, telemetry: Telemetry, pool: DecodePool) -> Lane:
    scorer = Scorer(pair, threads=1)
    metrics = telemetry.pair(pair.name, pair.version, pair.manifest.operating_points)
    batcher = Batcher(scorer.score, pool=pool, max_batch=4, max_frames=8, observer=metrics)
    return Lane(scorer=scorer, batcher=batcher, telemetry=metrics, decode=decode_nothing)


def decode_nothing(data: bytes) -> Frame:
    raise AssertionError("no frame is scored here")


def test_what_nobody_foresaw_is_tried_again(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_watch, "_FIRST_RETRY_S", 0.1)
    telemetry, pool = Telemetry(CollectorRegistry()), DecodePool(1)
    lanes = Lanes([make_lane(find_pair(models), telemetry, pool)])
    tried: list[str] = []

    def open_lane(pair: Pair) -> Lane:
        tried.append(pair.reference)
        if len(tried) < 3:
            raise MemoryError
        return make_lane(pair, telemetry, pool)

    async def follow() -> None:
        watch = index_watch.IndexWatch(
            models,
            lanes,
            open_lane=open_lane,
            closed=lambda _: None,
            metrics=telemetry.promotions,
            every_s=0.02,
            keep=0,
        )
        lanes.default.batcher.start()
        task = asyncio.create_task(watch.run())
        async with asyncio.timeout(30):
            while lanes.default.version != "2.0.0":
                await asyncio.sleep(0.02)
        task.cancel()
        await watch.finish()
        lanes.default.batcher.stop()

    promote(models, "tiny@2.0.0")
    asyncio.run(follow())
    pool.shutdown()
    assert tried == ["tiny@2.0.0"] * 3
    assert [lane.version for lane in lanes] == ["2.0.0"]
