"""`/metrics` of a real service with two workers, and what is forgotten of dead ones."""

from __future__ import annotations

import importlib.metadata
import io
import os
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from support.live_service import live_service
from support.tiny_pair import grey_frames, red_frames, write_tiny_pair

from serving.monitoring.metrics_summary import summarise_histograms
from serving.monitoring.telemetry import Telemetry, forget_dead_workers, worker_ids

N_RED, N_GREY, N_BAD = 30, 20, 5


def samples(page: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Sample name -> labels -> value."""
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def labels(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset({"pair": "tiny", "version": "1.0.0", **values}.items())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two workers that have answered red, grey and bad frames, a batch, and a scan for paths."""
    models = tmp_path_factory.mktemp("models")
    write_tiny_pair(models)
    red, grey = (io.BytesIO(), io.BytesIO())
    Image.fromarray(red_frames(1)[0]).save(red, "PNG")
    Image.fromarray(grey_frames(1)[0]).save(grey, "PNG")
    bodies = [red.getvalue()] * N_RED + [grey.getvalue()] * N_GREY + [b"junk"] * N_BAD
    with live_service(models=models, workers=2) as url:
        # A connection each: a connection stays with its worker.
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda body: httpx.post(f"{url}/v1/score", content=body, timeout=10), bodies))
        files = [("files", ("f.png", red.getvalue(), "image/png"))] * 3
        assert httpx.post(f"{url}/v1/score/batch", files=files, timeout=10).status_code == 200
        for step in range(20):
            httpx.get(f"{url}/admin/{step}.php", timeout=10)
        yield url


def test_every_worker_gives_the_sum_of_all(service: str) -> None:
    for _ in range(6):
        found = samples(httpx.get(f"{service}/metrics", timeout=10).text)
        verdicts = found["pipeprobe_verdicts_total"]
        assert verdicts[labels(operating_point="balanced", verdict="defect")] == N_RED + 3
        assert verdicts[labels(operating_point="balanced", verdict="normal")] == N_GREY
        stage = found["pipeprobe_stage_seconds_count"]
        assert stage[labels(stage="infer")] == N_RED + N_GREY + 3
        assert stage[labels(stage="total")] == N_RED + N_GREY + 1
        assert found["pipeprobe_score_count"][labels()] == N_RED + N_GREY + 3
        assert found["pipeprobe_batch_frames_sum"][labels()] == N_RED + N_GREY + 3
        assert found["pipeprobe_rejected_total"][frozenset({("reason", "not-an-image")})] == N_BAD
        assert found["pipeprobe_queue_frames"][labels()] == 0
        assert found["pipeprobe_requests_in_flight"][frozenset()] == 0
        assert found["pipeprobe_request_seconds_count"][frozenset({("route", "/v1/score")})] == N_RED + N_GREY + N_BAD
        assert found["pipeprobe_workers"][frozenset()] == 2
        # Two Python processes with a session each; neither one of them alone nor the whole machine.
        assert 80e6 < found["pipeprobe_resident_memory_bytes"][frozenset()] < 4e9
        assert found["pipeprobe_open_files"][frozenset()] > 10
        assert found["pipeprobe_cpu_seconds_total"][frozenset()] > 0.1
        assert "pipeprobe_gpu_memory_bytes" not in found
    (info,) = found["pipeprobe_pair_info"]
    assert {("device", "cpu"), ("variant", "fp32"), ("pair", "tiny")} <= info


def test_no_label_grows_with_what_callers_send(service: str) -> None:
    page = httpx.get(f"{service}/metrics", timeout=10).text
    assert "admin" not in page
    requests = samples(page)["pipeprobe_requests_total"]
    assert requests[frozenset({("route", "other"), ("method", "GET"), ("status", "404")})] == 20


def test_summary_of_a_real_page(service: str) -> None:
    rows = summarise_histograms(httpx.get(f"{service}/metrics", timeout=10).text)
    assert [row.stage for row in rows] == ["read", "decode", "queue", "infer", "encode", "total"]
    for row in rows:
        assert 0 < row.p50_s <= row.p95_s <= row.p99_s
        assert row.mean_s > 0


def test_gauges_of_killed_workers_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    dead = 2**22 + 1  # above the largest process id of Linux
    alive = os.getpid()
    kept = {f"gauge_livesum_{alive}.db", f"counter_{dead}.db", f"drift@{alive}@tiny@1.0.0@fp32"}
    for name in {f"gauge_livesum_{dead}.db", f"drift@{dead}@tiny@1.0.0@fp32"} | kept:
        (tmp_path / name).touch()
    assert worker_ids() == [alive]
    forget_dead_workers()
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_the_build_is_named() -> None:
    (labelled,) = samples(Telemetry(CollectorRegistry()).exposition().decode())["pipeprobe_build_info"]
    build = dict(labelled)
    assert build["python"] == platform.python_version()
    assert build["bentoml"] == importlib.metadata.version("bentoml")
    assert all(build.values())


def test_unknown_methods_share_a_label() -> None:
    telemetry = Telemetry(CollectorRegistry())
    telemetry.request("other", "BREW", 405, 0.01)
    assert 'method="other"' in telemetry.exposition().decode()
