"""The figures of `pipeprobe bench` side by side, where a frame's time goes, and what to change. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.bench.bound import AloneTimes, BoundRun
from serving.bench.load import LoadRun
from serving.monitoring.metrics_summary import STAGES, StageSummary

GOOD_SHARE = 0.90
"""Of the bound; a service that reaches it leaves nothing worth tuning in HTTP and batching."""

_GAIN = 1.05  # what a way of sharing the cores must win to be worth a changed setting
_MUCH = 0.15  # share of a frame's processor time that is worth a word


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All that was measured. `bounds`: the fastest first; `stages`: mean milliseconds of a frame under load."""

    cores: int
    device: str
    alone: AloneTimes
    bounds: list[BoundRun]
    current: BoundRun
    load: LoadRun
    lone: LoadRun
    stages: Mapping[str, float]

    @property
    def share(self) -> float:
        """The service's frames per second over the bound's."""
        return self.load.requests_per_s / self.bounds[0].frames_per_s

    @property
    def extra_ms(self) -> float:
        """What one client alone waits beyond decoding and inference."""
        return self.lone.p50_ms - self.alone.decode_ms - self.alone.infer_ms

    def to_json(self) -> dict[str, Any]:
        return {
            "cores": self.cores,
            "device": self.device,
            "alone": self.alone.to_json(),
            "bounds": [run.to_json() for run in self.bounds],
            "service_setup": self.current.to_json(),
            "load": self.load.to_json(),
            "lone_client": self.lone.to_json(),
            "stages_ms": dict(self.stages),
            "share_of_bound": self.share,
            "lone_extra_ms": self.extra_ms,
            "advice": advice(self),
        }


def stage_means_ms(before: list[StageSummary], after: list[StageSummary]) -> dict[str, float]:
    """Mean milliseconds per stage of what was timed between two looks at `/metrics`."""
    earlier = {row.stage: row for row in before}
    means = {}
    for row in after:
        old = earlier.get(row.stage)
        count = row.count - (old.count if old else 0)
        total_s = row.count * row.mean_s - (old.count * old.mean_s if old else 0.0)
        if count > 0:
            means[row.stage] = 1000 * total_s / count
    return {stage: means[stage] for stage in sorted(means, key=lambda stage: (*STAGES, stage).index(stage))}


def advice(figures: Figures) -> list[str]:
    """What to change, what must be mended first coming first; says so where there is nothing."""
    found = [*_crowded(figures), *_sharing(figures), *_bottleneck(figures), *_generator(figures)]
    return found or [f"nothing: the service does {figures.share:.0%} of what the machine can do without HTTP"]


def _sharing(figures: Figures) -> list[str]:
    best, current = figures.bounds[0], figures.current
    if best.setup == current.setup or best.frames_per_s < _GAIN * current.frames_per_s:
        return []
    setup = best.setup
    return [
        f"share the cores otherwise: PIPEPROBE_THREADS={setup.threads} PIPEPROBE_SCORERS={setup.scorers} "
        f"PIPEPROBE_DECODE_THREADS={setup.decoders} PIPEPROBE_SCORER_BATCH={setup.batch} scored "
        f"{best.frames_per_s / current.frames_per_s:.2f} times as many frames without HTTP"
    ]


def _bottleneck(figures: Figures) -> list[str]:
    if figures.share >= GOOD_SHARE:
        return []
    if figures.device != "cpu" and figures.stages.get("decode", 0.0) > figures.stages.get("infer", 0.0):
        return [
            "decoding is the bottleneck, not the GPU: raise PIPEPROBE_DECODE_THREADS, or PIPEPROBE_WORKERS with "
            "PIPEPROBE_DEVICE, or have callers decode and POST /v1/score/raw"
        ]
    if figures.cores >= 4:
        return [
            f"the service does {figures.share:.0%} of the bound: one event loop serves {figures.cores} cores; raise "
            "PIPEPROBE_WORKERS, 2 or 3 cores each"
        ]
    return [
        f"the service does {figures.share:.0%} of the bound: send many frames a request (POST /v1/score/batch), and "
        "set PIPEPROBE_ACCESS_LOG=0 if nobody reads a line a request"
    ]


def _generator(figures: Figures) -> list[str]:
    cost = figures.load.cpu_ms
    if cost < _MUCH * figures.bounds[0].cpu_ms:
        return []
    return [
        f"the load generator took {cost:.2f} ms of a core a request from the service: ask from another machine "
        "(--url), or with wrk or oha, before you judge the share"
    ]


def _crowded(figures: Figures) -> list[str]:
    if figures.device != "cpu" or figures.bounds[0].cores >= 0.8 * figures.cores:
        return []
    return [
        f"other programs use this machine: the bound got {figures.bounds[0].cores:.1f} of {figures.cores} cores; "
        "measure again when they have ended"
    ]


def lines(figures: Figures) -> list[str]:
    """The report for people."""
    best, load, lone = figures.bounds[0], figures.load, figures.lone
    setup = best.setup
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in figures.stages.items())
    return [
        f"one frame alone    {figures.alone.decode_ms:8.1f} ms decode + {figures.alone.infer_ms:.1f} ms inference",
        f"bound, no HTTP     {best.frames_per_s:8.1f} frames/s, {best.cpu_ms:.2f} ms of a core a frame "
        f"({setup.scorers} runs of {setup.threads} threads, {setup.decoders} decoding, batches of {setup.batch})",
        f"service            {load.requests_per_s:8.1f} frames/s to {load.clients} clients, p50 {load.p50_ms:.1f} ms, "
        f"p99 {load.p99_ms:.1f} ms, {load.failed} failed",
        f"share of the bound {figures.share:8.2f}   (aim: {GOOD_SHARE})",
        f"one client         {lone.p50_ms:8.1f} ms p50, {figures.extra_ms:.1f} ms beyond decode and inference (aim: 3)",
        f"load generator     {load.cpu_ms:8.2f} ms of a core a request, in Python, on the same machine unless --url",
        f"where time goes    {stages} (ms, mean, under load; queue is waiting for a thread or the scorer)",
        "",
        *(f"to change: {line}" for line in advice(figures)),
    ]
