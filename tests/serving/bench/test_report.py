"""What is read off the figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.bench.bound import AloneTimes, BoundRun, Setup
from serving.bench.load import LoadRun
from serving.bench.report import Figures, advice, lines, stage_means_ms
from serving.monitoring.metrics_summary import StageSummary

SETUP = Setup(threads=2, scorers=2, decoders=2, batch=4)


def bound(frames_per_s: float, setup: Setup = SETUP, cores: float = 2.0) -> BoundRun:
    return BoundRun(setup=setup, frames_per_s=frames_per_s, cpu_ms=5.0, cores=cores)


def load(requests_per_s: float, cpu_ms: float = 0.1, p50_ms: float = 8.0) -> LoadRun:
    return LoadRun(clients=16, requests_per_s=requests_per_s, p50_ms=p50_ms, p99_ms=20.0, failed=0, cpu_ms=cpu_ms)


FIGURES = Figures(
    cores=2,
    device="cpu",
    alone=AloneTimes(decode_ms=2.0, infer_ms=4.0),
    bounds=[bound(400)],
    current=bound(400),
    load=load(380),
    lone=load(100),
    stages={"read": 0.5, "decode": 3.0, "queue": 20.0, "infer": 9.0, "encode": 0.1, "total": 33.0},
)


def test_shares_and_extra_time() -> None:
    assert FIGURES.share == pytest.approx(0.95)
    assert FIGURES.extra_ms == pytest.approx(2.0)
    assert advice(FIGURES) == ["nothing: the service does 95% of what the machine can do without HTTP"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"load": load(300)}, ["/v1/score/batch"]),
        ({"load": load(300), "cores": 16, "bounds": [bound(400, cores=16)]}, ["PIPEPROBE_WORKERS"]),
        ({"load": load(380, cpu_ms=2.0)}, ["2.00 ms of a core"]),
        ({"bounds": [bound(400, cores=1.1)]}, ["1.1 of 2 cores"]),
        (
            {"bounds": [bound(500, replace(SETUP, threads=1, batch=16)), bound(400)]},
            ["PIPEPROBE_THREADS=1 PIPEPROBE_SCORERS=2 PIPEPROBE_DECODE_THREADS=2 PIPEPROBE_SCORER_BATCH=16", "76%"],
        ),
        (
            {"device": "cuda", "load": load(100), "stages": {"decode": 9.0, "infer": 2.0}},
            ["decoding is the bottleneck, not the GPU"],
        ),
    ],
)
def test_says_what_to_change(changed: dict[str, object], expected: list[str]) -> None:
    figures = replace(FIGURES, **changed)  # type: ignore[arg-type]
    found = advice(figures)
    assert len(found) == len(expected)
    for line, part in zip(found, expected, strict=True):
        assert part in line


def test_a_small_gain_is_not_worth_a_setting() -> None:
    figures = replace(FIGURES, bounds=[bound(410, replace(SETUP, batch=8)), bound(400)])
    assert not any("PIPEPROBE_THREADS" in line for line in advice(figures))


def test_prints_and_dumps_all_figures() -> None:
    text = "\n".join(lines(FIGURES))
    for part in ("400.0 frames/s", "380.0 frames/s", "0.95", "2.0 ms decode + 4.0 ms", "queue 20.0", "nothing"):
        assert part in text
    figures = FIGURES.to_json()
    assert (figures["share_of_bound"], figures["lone_extra_ms"]) == (FIGURES.share, FIGURES.extra_ms)
    assert figures["bounds"][0]["setup"] == SETUP.to_json()


def test_stage_means_are_of_what_came_between() -> None:
    def row(stage: str, count: int, mean_s: float) -> StageSummary:
        return StageSummary(stage=stage, count=count, mean_s=mean_s, p50_s=0, p95_s=0, p99_s=0)

    before = [row("decode", 10, 0.001), row("infer", 5, 0.002)]
    after = [row("infer", 5, 0.002), row("decode", 30, 0.003), row("read", 2, 0.5)]
    assert stage_means_ms(before, after) == pytest.approx({"read": 500, "decode": (30 * 3 - 10 * 1) / 20})
