"""The service's Prometheus metrics.

Labels are pair, version and closed sets (stage, route template, verdict, reason): never a path or a file
name, which callers could make up without end. BentoML gives its workers PROMETHEUS_MULTIPROC_DIR, in which
each writes its values; whichever worker is asked adds up all of them. What is counted is declared here; what is
looked up only when somebody asks is in `serving.monitoring.scrape` and `serving.monitoring.drift_metrics`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from serving.monitoring.drift_metrics import WINDOW_FILES, DriftMetrics, worker_of_window
from serving.monitoring.metrics_summary import STAGE_METRIC, STAGES
from serving.monitoring.promotion_metrics import PromotionMetrics
from serving.monitoring.scrape import GpuCollector, ProcessCollector
from serving.monitoring.shadow_metrics import ShadowFamilies
from serving.pairs.versions import version_of

__all__ = ["CONTENT_TYPE_LATEST", "PairTelemetry", "Telemetry"]

# Fine where a GPU answers (under 10 ms), coarse where only overload gets.
_SECONDS = (
    *(0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0),
)
_FRAMES = (1, 2, 4, 8, 16, 32, 64, 128)
_SCORES = tuple(step / 20 for step in range(1, 21))

_MULTIPROC_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PACKAGES = {"version": "pipeprobe", "bentoml": "bentoml", "onnxruntime": "onnxruntime-gpu"}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Telemetry:
    """All metrics of one worker; safe to use from several threads."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry or CollectorRegistry()
        kept = self._registry
        pair = ("pair", "version")
        self._stages = Histogram(
            STAGE_METRIC,
            "Seconds per stage; decode, queue and infer are timed per frame, the others per request",
            ("stage", *pair),
            buckets=_SECONDS,
            registry=kept,
        )
        self._batches = Histogram(
            "pipeprobe_batch_frames", "Frames in one run of the session", pair, buckets=_FRAMES, registry=kept
        )
        self._queued = Gauge(
            "pipeprobe_queue_frames",
            "Frames admitted and not yet scored",
            pair,
            multiprocess_mode="livesum",
            registry=kept,
        )
        self._in_flight = Gauge(
            "pipeprobe_requests_in_flight",
            "Scoring requests being answered",
            multiprocess_mode="livesum",
            registry=kept,
        )
        self._requests = Counter(
            "pipeprobe_requests", "Answered requests", ("route", "method", "status"), registry=kept
        )
        self._seconds = Histogram(
            "pipeprobe_request_seconds",
            "Seconds from a request's headers to the last byte of its answer, whatever that is",
            ("route",),
            buckets=_SECONDS,
            registry=kept,
        )
        self._verdicts = Counter("pipeprobe_verdicts", "Verdicts", (*pair, "operating_point", "verdict"), registry=kept)
        self._scores = Histogram("pipeprobe_score", "Scores", pair, buckets=_SCORES, registry=kept)
        self._rejected = Counter(
            "pipeprobe_rejected", "Frames and requests refused, by problem", ("reason",), registry=kept
        )
        self._info = Gauge(
            "pipeprobe_pair_info",
            "1 for every pair that is served, and on what",
            (*pair, "encoder", "method", "variant", "device", "provider"),
            multiprocess_mode="livemax",
            registry=kept,
        )
        self._build = Gauge(
            "pipeprobe_build_info",
            "1, and the versions of what is running",
            (*_PACKAGES, "python"),
            multiprocess_mode="livemax",
            registry=kept,
        )
        self.in_flight = self._in_flight
        self.promotions = PromotionMetrics(kept)
        self.shadows = ShadowFamilies(kept)
        self._served: dict[tuple[str, str], tuple[str, ...]] = {}
        forget_dead_workers()
        built = {label: version_of(package) for label, package in _PACKAGES.items()}
        self._build.labels(**built, python=platform.python_version()).set(1)
        folder = os.environ.get(_MULTIPROC_VARIABLE)
        self.drift = DriftMetrics(Path(folder) if folder else None)
        self._uses_gpu = False
        # Asked when the page is made, in whichever worker makes it.
        self._looked_up = (ProcessCollector(worker_ids), GpuCollector(lambda: self._uses_gpu), self.drift)
        if folder is None:
            for collector in self._looked_up:
                kept.register(collector)

    @property
    def registry(self) -> CollectorRegistry:
        """For metrics that are declared beside what they count."""
        return self._registry

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request; `route` is a template such as `/v2/models/{name}`."""
        self._requests.labels(route, method if method in _METHODS else "other", str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def rejected(self, reason: str) -> None:
        """Count a refused frame or request under the slug of its problem."""
        self._rejected.labels(reason).inc()

    def pair(self, name: str, version: str, operating_points: Iterable[str]) -> PairTelemetry:
        """The metrics of one pair, with every label set already resolved."""
        labels = (name, version)
        return PairTelemetry(
            stages={stage: self._stages.labels(stage, *labels) for stage in STAGES},
            batch_frames=self._batches.labels(*labels),
            queue_frames=self._queued.labels(*labels),
            scores=self._scores.labels(*labels),
            verdicts={
                (point, verdict): self._verdicts.labels(*labels, point, verdict)
                for point in operating_points
                for verdict in ("defect", "normal")
            },
        )

    def serves(
        self, *, pair: str, version: str, encoder: str, method: str, variant: str, device: str, provider: str
    ) -> None:
        """Say that this pair is served, and on what."""
        labels = (pair, version, encoder, method, variant, device, provider)
        self._uses_gpu |= device != "cpu"
        self._served[pair, version] = labels
        self._info.labels(*labels).set(1)

    def withdrawn(self, pair: str, version: str) -> None:
        """Say that this worker serves a pair no longer."""
        labels = self._served.pop((pair, version), None)
        if labels is not None:
            self._info.labels(*labels).set(0)
        self.drift.forget(pair, version)

    def exposition(self) -> bytes:
        """The page of `/metrics`, added up over all workers where there are several."""
        if _MULTIPROC_VARIABLE not in os.environ:
            return generate_latest(self._registry)
        forget_dead_workers()
        registry = CollectorRegistry()
        for collector in self._looked_up:
            registry.register(collector)
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it has no annotations
        return generate_latest(registry)


@dataclass(frozen=True, kw_only=True)
class PairTelemetry:
    """The metrics of one pair of one worker; resolving labels per frame would cost more than counting."""

    stages: dict[str, Histogram]
    batch_frames: Histogram
    queue_frames: Gauge
    scores: Histogram
    verdicts: dict[tuple[str, str], Counter]

    def stage(self, stage: str, seconds: float) -> None:
        self.stages[stage].observe(seconds)

    def queued(self, n_frames: int) -> None:
        self.queue_frames.set(n_frames)

    def batch(self, n_frames: int) -> None:
        self.batch_frames.observe(n_frames)

    def scored(self, score: float, operating_point: str, verdict: str) -> None:
        self.scores.observe(score)
        self.verdicts[operating_point, verdict].inc()


def worker_ids() -> list[int]:
    """Process ids of the workers that are alive; this process where there is only one."""
    folder = os.environ.get(_MULTIPROC_VARIABLE)
    if folder is None:
        return [os.getpid()]
    return sorted(pid for pid in {_worker_of(path) for path in _live_files(Path(folder))} if psutil.pid_exists(pid))


def forget_dead_workers() -> None:
    """Drop the gauges and windows of workers that were killed; they would be added up for ever."""
    folder = os.environ.get(_MULTIPROC_VARIABLE)
    if folder is None:
        return
    for path in _live_files(Path(folder)):
        if not psutil.pid_exists(_worker_of(path)):
            path.unlink(missing_ok=True)


def forget_this_worker() -> None:
    """Drop the gauges and windows of this process, at its orderly end."""
    folder = os.environ.get(_MULTIPROC_VARIABLE)
    if folder is None:
        return
    multiprocess.mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]  # it has no annotations
    for path in _live_files(Path(folder)):
        if _worker_of(path) == os.getpid():
            path.unlink(missing_ok=True)


def _live_files(folder: Path) -> list[Path]:
    """Files of one worker each that say something only while it lives."""
    return [*folder.glob("gauge_live*_*.db"), *folder.glob(WINDOW_FILES)]


def _worker_of(path: Path) -> int:
    return int(worker_of_window(path) if path.suffix != ".db" else path.stem.rpartition("_")[2])
