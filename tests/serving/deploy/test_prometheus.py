"""A real Prometheus scrapes the real service, and is asked every query of the dashboard and of the alerts.

Deselected by default: `make test-observability`. Needs `prometheus` (Debian: apt-get install prometheus).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from support.live_service import free_port, started
from support.observed_service import (
    DEPLOY,
    dashboard_queries,
    metric_names,
    observed_service,
    send_frames,
    send_refused,
    send_video,
    through_new_camera,
)
from support.tiny_pair import random_frames

from serving.monitoring.scrape import GPU_METRICS

pytestmark = [
    pytest.mark.observability,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's package prometheus is missing"),
]

SCRAPE_S = 1
# Rates need two scrapes inside the shortest window asked for.
WARM_UP_S = 15.0
WAIT_S = 60.0
COMPARISON = re.compile(r"\s*(?:==|!=|>=|<=|>|<)\s*")


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """A running server and the service that it scrapes."""

    url: str
    service: str
    new_camera: threading.Event

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of an expression; fails with Prometheus's own message if it is refused."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def rules(self) -> dict[str, dict[str, Any]]:
        """State and health of every alert."""
        answer = httpx.get(f"{self.url}/api/v1/rules", timeout=10).json()
        return {rule["name"]: rule for group in answer["data"]["groups"] for rule in group["rules"]}

    def wait_for_state(self, alert: str, state: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while (found := self.rules()[alert]["state"]) != state:
            assert time.monotonic() < deadline, f"{alert} is {found}"
            time.sleep(0.5)


@contextmanager
def traffic(url: str, new_camera: threading.Event) -> Iterator[None]:
    """Steady frames, and some refusals, until it is left; through another camera once that is set."""
    done = threading.Event()

    def send() -> None:
        seed = 10
        while not done.is_set():
            frames = random_frames(50, seed=seed)
            send_frames(url, through_new_camera(frames) if new_camera.is_set() else frames)
            httpx.post(f"{url}/v1/score", content=b"junk", timeout=10)
            seed += 1
            done.wait(0.3)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def write_config(folder: Path, target: str) -> Path:
    """The shipped configuration and alerts with this target, without its key, and faster."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"}
    (scrape,) = config["scrape_configs"]
    del scrape["authorization"]
    scrape["static_configs"] = [{"targets": [target]}]
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", folder)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    with observed_service(tmp_path_factory.mktemp("models")) as service:
        config = write_config(folder, service.removeprefix("http://"))
        command = [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        found = Prometheus(url=f"http://127.0.0.1:{port}", service=service, new_camera=threading.Event())
        with started(command, cwd=folder, env={}, log=folder / "log") as process:
            _wait_until_ready(found, process, folder / "log")
            with traffic(service, found.new_camera):
                time.sleep(WARM_UP_S / 2)
                # A refusal and a job that the first scrape has not seen yet, so that their rates are not 0 for ever.
                send_refused(service)
                send_video(service)
                time.sleep(WARM_UP_S / 2)
                yield found


def _wait_until_ready(prometheus: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{prometheus.url}/-/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text()[-3000:])


def shown(query: str) -> str:
    """A dashboard's query as Grafana sends it."""
    return query.replace("$__rate_interval", "30s").replace("$pair", ".*")


def test_the_service_is_scraped(prometheus: Prometheus) -> None:
    (up,) = prometheus.query('up{job="pipeprobe"}')
    assert up["value"][1] == "1"


def test_every_dashboard_query_returns_data(prometheus: Prometheus) -> None:
    queries = dashboard_queries(json.loads((DEPLOY / "grafana" / "dashboard.json").read_text()))
    asked = {name: query for name, query in queries.items() if not metric_names(query) & set(GPU_METRICS)}
    assert len(asked) == len(queries) - 3  # of a GPU, which is not there
    empty = []
    for name, query in asked.items():
        values = [float(sample["value"][1]) for sample in prometheus.query(shown(query))]
        if not values or all(np.isnan(values)):
            empty.append(f"{name}: {query}")
    print(f"\n{len(asked)} dashboard queries, {len(empty)} without data")
    assert not empty


def test_every_alert_is_evaluated_and_looks_at_what_there_is(prometheus: Prometheus) -> None:
    rules = prometheus.rules()
    asked = 0
    for name, rule in rules.items():
        assert rule["health"] in ("ok", "unknown"), f"{name}: {rule.get('lastError')}"
        left = COMPARISON.split(re.sub(r"\{[^}]*\}", "", rule["query"]))[0]
        if not metric_names(left) & set(GPU_METRICS):
            assert prometheus.query(left), f"{name}: {left}"
            asked += 1
    print(f"\n{len(rules)} alerts, the left side of {asked} returns data")
    assert asked == len(rules) - 1


def test_a_sound_service_raises_no_alert_and_a_new_camera_does(prometheus: Prometheus) -> None:
    assert {name for name, rule in prometheus.rules().items() if rule["state"] != "inactive"} == set()
    prometheus.new_camera.set()
    send_frames(prometheus.service, through_new_camera(random_frames(1000, seed=3)))
    # It fires after half an hour; until then it is pending.
    prometheus.wait_for_state("PipeprobeFramesDrifted", "pending")
    prometheus.wait_for_state("PipeprobeScoresDrifted", "pending")
