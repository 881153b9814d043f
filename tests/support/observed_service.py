"""A real service that has had some of every kind of traffic, so that every metric has something to say."""

from __future__ import annotations

import io
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from support.live_service import ROOT, live_service
from support.tiny_pair import PROBE_BIAS, add_reference, random_frames, write_tiny_pair
from support.video_files import red_between, write_pal
from support.video_jobs import wait_for_end

DEPLOY = ROOT / "serving" / "deploy"
DEADLINE_S = 3.0
BATCH = 50

_METRIC = re.compile(r"\bpipeprobe_[a-z0-9_]+")


@contextmanager
def observed_service(models: Path) -> Iterator[str]:
    """Serve the tiny pair with a reference and a shadow from `models`; yields the URL after some of every traffic.

    That is 500 steady frames, some refusals and a video job.
    """
    add_reference(write_tiny_pair(models), random_frames(2000, seed=1))
    write_tiny_pair(models, name="candidate", bias=PROBE_BIAS + 0.5, default=False)
    settings = {"deadline_s": DEADLINE_S, "drift_window_frames": 1000, "shadow": "candidate"}
    with live_service(models=models, settings=settings) as url:
        send_frames(url, random_frames(500, seed=2))
        send_refused(url)
        send_video(url)
        yield url


def send_frames(url: str, frames: NDArray[np.uint8]) -> None:
    """Score frames, uint8 [N, S, S, 3], in batches."""
    for start in range(0, len(frames), BATCH):
        files = [("files", ("f.png", png(frame), "image/png")) for frame in frames[start : start + BATCH]]
        assert httpx.post(f"{url}/v1/score/batch", files=files, timeout=30).status_code == 200


def send_video(url: str) -> None:
    """A video job, and wait for its end."""
    with tempfile.TemporaryDirectory() as folder:
        video = write_pal(Path(folder) / "run.mpg", red_between(1.0, 2.0), seconds=3)
        sent = httpx.post(f"{url}/v1/videos", files={"file": ("run.mpg", video.read_bytes())}, timeout=30)
    assert sent.status_code == 202, sent.text
    assert wait_for_end(url, sent.json())["state"] == "done"


def through_new_camera(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frames as a camera with a brighter, warmer light and a duller picture takes them."""
    seen = 90 + 0.6 * frames.astype(float) * np.array([1.5, 0.9, 0.6])
    return np.clip(seen, 0, 255).astype(np.uint8)


def send_refused(url: str) -> None:
    """A frame that is none, a path that is none, and a body that never ends."""
    assert httpx.post(f"{url}/v1/score", content=b"junk", timeout=10).status_code == 415
    assert httpx.get(f"{url}/nowhere", timeout=10).status_code == 404
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=5 * DEADLINE_S) as slow:
        slow.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nbegun")
        assert b" 504 " in slow.recv(100)


def png(frame: NDArray[np.uint8]) -> bytes:
    body = io.BytesIO()
    Image.fromarray(frame).save(body, "PNG", compress_level=1)
    return body.getvalue()


def metric_names(expression: str) -> set[str]:
    """The service's metrics that a query names."""
    return set(_METRIC.findall(expression))


def dashboard_queries(dashboard: dict[str, Any]) -> dict[str, str]:
    """Query by `panel: letter`, of all panels of a Grafana dashboard."""
    return {
        f"{panel['title']}: {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }
