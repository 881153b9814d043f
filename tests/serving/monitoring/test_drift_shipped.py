"""The shipped pair's drift on simulated pipes: other inspections leave it low, other cameras raise it.

Deselected by default, since drawing 800 frames takes minutes: `make test-observability`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.live_service import live_service

from serving.monitoring.drift import DISTANCE_THRESHOLD, MIN_FRAMES, PSI_THRESHOLD
from training.simulator.frames import FramesConfig, simulate_frames

pytestmark = [pytest.mark.observability, pytest.mark.timeout(600)]

# 25 inspections of 16 frames: fewer would lie above the expectation by themselves.
FRAMES = 400
BATCH = 50


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with live_service(settings={"drift_window_frames": FRAMES, "auth": "off"}) as url:
        yield url


def drift_after(url: str, folder: Path, profile: str, seed: int) -> tuple[float, float]:
    """PSI and distance once the window holds nothing but new frames of the profile."""
    config = FramesConfig(train=0, val=FRAMES, test=0, size=160, seed=seed, profile=profile)
    simulate_frames(config, folder, workers=2, command="")
    images = sorted((folder / "valid").glob("*.png"))
    assert len(images) == FRAMES
    for start in range(0, FRAMES, BATCH):
        files = [("files", ("f.png", path.read_bytes(), "image/png")) for path in images[start : start + BATCH]]
        assert httpx.post(f"{url}/v1/score/batch", files=files, timeout=60).status_code == 200
    page = httpx.get(f"{url}/metrics", timeout=10).text
    found = {sample.name: sample.value for family in text_string_to_metric_families(page) for sample in family.samples}
    assert MIN_FRAMES < found["pipeprobe_drift_window_frames"] <= FRAMES + BATCH
    psi, distance = found["pipeprobe_drift_score_psi"], found["pipeprobe_drift_embedding_distance"]
    print(f"\n{profile}, seed {seed}: PSI {psi:.3f}, distance {distance:.3f}")
    return psi, distance


def test_other_inspections_of_the_same_kind_are_no_drift(service: str, tmp_path: Path) -> None:
    psi, distance = drift_after(service, tmp_path / "sim", "standard", seed=101)
    assert psi < PSI_THRESHOLD
    assert distance < DISTANCE_THRESHOLD


def test_other_cameras_are(service: str, tmp_path: Path) -> None:
    psi, distance = drift_after(service, tmp_path / "sim", "shifted", seed=102)
    assert psi > PSI_THRESHOLD
    assert distance > DISTANCE_THRESHOLD
