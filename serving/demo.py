"""The demo: shipped frames over HTTP, a shipped inspection through the batch scorer, both against their truth.

The samples are simulated; `samples/README.md` names the commands that made them. The truth of each lies beside it.
"""

from __future__ import annotations

import csv
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from serving.errors import PipeprobeError, VideoError
from serving.inspections.truth_check import TruthCheck, check_findings
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import score_videos
from serving.monitoring.metrics_summary import summarise_histograms
from serving.pairs.pair import find_pair, models_root
from serving.scorer import Scorer

SAMPLES = Path(__file__).parent / "samples"
INSPECTION = SAMPLES / "inspection.mp4"

START_TIMEOUT_S = 60.0
# Each frame is sent this often, so that the latency histogram has more than one request a frame.
REQUESTS_PER_FRAME = 10

# Of the inspection: every false alarm costs, and an event shows on many frames.
OPERATING_POINT = "specificity_95"
# A finding hits a true event if no more than this lies between the two.
TOLERANCE_S = 1.0
MIN_RECALL = 0.75
MAX_FALSE_FINDINGS = 2
# Of the time further than TOLERANCE_S from every true event, so that no finding is bought by flagging everything.
MAX_FLAGGED_NORMAL = 0.25


@dataclass(frozen=True, kw_only=True)
class SampleFrame:
    """One shipped frame and what it is known to show."""

    path: Path
    truth: str
    shows: str


def run_demo(out: Path) -> bool:
    """Run the whole demo, printing as it goes; True if the findings agree with the truth."""
    console = Console()
    with running_service(console) as url:
        _score_frames(url, console)
        _print_latencies(url, console)
    console.print("service stopped\n")
    return _score_inspection(out, console)


@contextmanager
def running_service(console: Console) -> Iterator[str]:
    """The scoring service as a child process on a free loopback port; stopped on leaving."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    console.print(f"starting the service on {url} ...")
    command = [sys.executable, "-m", "serving", "serve", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        started = time.monotonic()
        _wait_until_ready(url, process)
        console.print(f"ready after {time.monotonic() - started:.1f} s\n")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            output = process.stderr.read() if process.stderr else ""
            raise PipeprobeError(f"the service ended with code {process.returncode} at start:\n{output[-2000:]}")
        try:
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise PipeprobeError(f"the service was not ready within {START_TIMEOUT_S:.0f} s")


def _sample_frames() -> list[SampleFrame]:
    with (SAMPLES / "frames" / "labels.csv").open(newline="") as file:
        return [
            SampleFrame(path=SAMPLES / "frames" / row["file"], truth=row["truth"], shows=row["shows"])
            for row in csv.DictReader(file)
        ]


def _score_frames(url: str, console: Console) -> None:
    table = Table(title="sample frames, scored over HTTP", title_justify="left")
    for heading in ("frame", "shows", "truth", "verdict"):
        table.add_column(heading)
    for heading in ("score", "ms"):
        table.add_column(heading, justify="right")
    with httpx.Client(base_url=url, timeout=30) as client:
        for frame in _sample_frames():
            answers = [_score_frame(client, frame.path) for _ in range(REQUESTS_PER_FRAME)]
            answer = answers[-1]
            agrees = "green" if answer["verdict"] == frame.truth else "red"
            table.add_row(
                frame.path.name,
                frame.shows,
                frame.truth,
                f"[{agrees}]{answer['verdict']}[/]",
                f"{answer['score']:.3f}",
                f"{answer['timings_ms']['total']:.1f}",
            )
    console.print(table)
    console.print(
        f"operating point {answer['operating_point']} (threshold {answer['threshold']:.3f}), "
        f"pair {answer['pair']} {answer['pair_version']}\n"
    )


def _score_frame(client: httpx.Client, path: Path) -> dict[str, Any]:
    response = client.post("/v1/score", content=path.read_bytes(), headers={"content-type": "image/jpeg"})
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def _print_latencies(url: str, console: Console) -> None:
    table = Table(title="latency by stage, from /metrics", title_justify="left")
    table.add_column("stage")
    for heading in ("requests", "mean ms", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    for row in summarise_histograms(httpx.get(f"{url}/metrics", timeout=10).text):
        quantiles = (row.mean_s, row.p50_s, row.p95_s, row.p99_s)
        table.add_row(row.stage, str(row.count), *(f"{1000 * value:.1f}" for value in quantiles))
    console.print(table)


def _score_inspection(out: Path, console: Console) -> bool:
    console.print(f"scoring {INSPECTION.name} with the batch scorer ...")
    scorer = Scorer(find_pair(models_root()), device="cpu")
    (result,) = score_videos([INSPECTION], out, scorer, VideoSettings(operating_point=OPERATING_POINT))
    if result.status == "failed":
        raise VideoError(result.reason)
    check = check_findings(result.folder / "findings.json", SAMPLES / "inspection.truth.json", tolerance_s=TOLERANCE_S)
    _print_findings(check, console)
    console.print(f"findings written to {result.folder}/")
    return (
        check.matching.recall >= MIN_RECALL
        and len(check.matching.false_findings) <= MAX_FALSE_FINDINGS
        and check.flagged_normal <= MAX_FLAGGED_NORMAL
    )


def _print_findings(check: TruthCheck, console: Console) -> None:
    table = Table(title="findings in the sample inspection", title_justify="left")
    for heading in ("true event", "shows", "found"):
        table.add_column(heading)
    for i, (event, codes) in enumerate(zip(check.events, check.codes, strict=True)):
        found = "[green]yes[/]" if i in check.matching.found else "[red]no[/]"
        table.add_row(_span(event.start_s, event.end_s), " ".join(codes), found)
    console.print(table)
    for i, finding in enumerate(check.findings):
        kind = "[red]false finding[/]" if i in check.matching.false_findings else "finding"
        console.print(f"{kind} {_span(finding['start_s'], finding['end_s'])}, peak score {finding['score']:.3f}")
    console.print(
        f"recall {check.matching.recall:.2f} (at least {MIN_RECALL}), {len(check.matching.false_findings)} false "
        f"findings (at most {MAX_FALSE_FINDINGS}), {100 * check.flagged_normal:.0f} % of the normal time flagged "
        f"(at most {100 * MAX_FLAGGED_NORMAL:.0f} %), tolerance {TOLERANCE_S} s"
    )


def _span(start_s: float, end_s: float) -> str:
    return f"{start_s:.1f}-{end_s:.1f} s"
