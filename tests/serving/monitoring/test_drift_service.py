"""Drift of a real service with two workers: steady traffic leaves it low, a change of camera raises it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from support.live_service import live_service
from support.observed_service import png, through_new_camera
from support.tiny_pair import add_reference, random_frames, write_tiny_pair

from serving.monitoring.drift import DISTANCE_THRESHOLD, PSI_THRESHOLD

WINDOW = 1000
REFERENCE_FRAMES = 2000
BATCH = 50


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    add_reference(write_tiny_pair(models), random_frames(REFERENCE_FRAMES, seed=1))
    with live_service(models=models, workers=2, settings={"drift_window_frames": WINDOW}) as url:
        yield url


def send(url: str, frames: NDArray[np.uint8]) -> None:
    """Score frames in batches, a connection each, so that both workers get some."""

    def post(batch: NDArray[np.uint8]) -> int:
        files = [("files", ("f.png", png(frame), "image/png")) for frame in batch]
        return httpx.post(f"{url}/v1/score/batch", files=files, timeout=30).status_code

    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(post, [frames[start : start + BATCH] for start in range(0, len(frames), BATCH)]))
    assert set(statuses) == {200}


def drift(url: str) -> dict[str, float]:
    """The drift metrics, by the end of their names."""
    page = httpx.get(f"{url}/metrics", timeout=10).text
    found = {}
    for family in text_string_to_metric_families(page):
        if family.name.startswith("pipeprobe_drift_"):
            (sample,) = family.samples or [None]
            if sample is not None:
                assert sample.labels == {"pair": "tiny", "version": "1.0.0", "variant": "fp32"}
                found[family.name.removeprefix("pipeprobe_drift_")] = sample.value
    return found


def test_a_new_camera_moves_both_and_steady_traffic_neither(service: str) -> None:
    send(service, random_frames(WINDOW, seed=2))
    steady = drift(service)
    # Each of the two windows keeps at least 19 of its 20 blocks; how many frames each worker got is chance.
    assert 0.5 * WINDOW < steady["window_frames"] <= WINDOW + BATCH
    assert steady["score_psi"] < 4 * steady["score_psi_expected"] < PSI_THRESHOLD
    assert steady["embedding_distance"] < 4 * steady["embedding_distance_expected"] < DISTANCE_THRESHOLD

    send(service, through_new_camera(random_frames(2 * WINDOW, seed=3)))
    moved = drift(service)
    assert moved["score_psi"] > PSI_THRESHOLD
    assert moved["embedding_distance"] > DISTANCE_THRESHOLD


def test_every_worker_says_the_same(service: str) -> None:
    send(service, random_frames(BATCH, seed=4))
    assert len({tuple(sorted(drift(service).items())) for _ in range(6)}) == 1


def test_no_window_no_metrics(tmp_path: Path) -> None:
    add_reference(write_tiny_pair(tmp_path), random_frames(300))
    with live_service(models=tmp_path, settings={"drift_window_frames": 0}) as url:
        assert drift(url) == {}
