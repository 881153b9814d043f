"""What the service does with more than it can do: goodput, latency of what it admits, what it refuses, memory.

    PYTHONPATH=.:tests python tests/benchmarks/service_overload.py --out overload.json

Measures the capacity first (a closed loop of 16 clients, one 720x576 JPEG a request), then offers 1, 2 and 4 times
that at random moments that do not wait for answers. The load comes from the same machine: its share of a core and
how late it sends its requests are printed, so that a generator that is the bottleneck is seen.

    good          answers with a score within the deadline, a second; the bound is 0.90 of the peak at 4x
    p50, p99      milliseconds from a request's moment to its score; the bound is the deadline
    refused       share with 429 or 503 and Retry-After, and how long that takes
    failed        share with anything else: 504, or no answer at all
    service_cores cores that the service got; where other programs took some, good_per_core says more than good
"""

from __future__ import annotations

import io
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import uvloop
from PIL import Image
from support.live_service import live_service
from support.open_loop import Answer, closed_loop, latency_ms, offer
from support.process_watch import MIB, peak_of

from serving.devices import available_cores
from serving.durable import write_json_atomic

CLIENTS, LOADS, GOODPUT_BOUND = 16, (1, 2, 4), 0.90


@contextmanager
def usage_of(processes: Sequence[psutil.Process]) -> Iterator[dict[str, float]]:
    """The cores that they got while the block ran, and their largest resident size; known when it has ended."""
    usage: dict[str, float] = {}
    begun, used_s = time.perf_counter(), cpu_s(processes)
    with peak_of(processes) as peak:
        yield usage
    usage["service_cores"] = round((cpu_s(processes) - used_s) / (time.perf_counter() - begun), 2)
    usage["rss_mib"] = round(peak.rss / MIB, 1)


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes if process.is_running())


def jpeg_frame() -> bytes:
    """A 720x576 JPEG of some 120 kB, as detailed as an inspection's frames."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (18, 24, 3), dtype=np.uint8)).resize((720, 576))
    pixels = np.asarray(coarse, np.int16) + rng.integers(-22, 23, (576, 720, 1), dtype=np.int16)
    data = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(data, "JPEG", quality=88)
    return data.getvalue()


def http_request(frame: bytes) -> bytes:
    head = f"POST /v1/score HTTP/1.1\r\nHost: here\r\nContent-Type: image/jpeg\r\nContent-Length: {len(frame)}\r\n\r\n"
    return head.encode() + frame


def summarise(load: int, rate: float, answers: list[Answer], deadline_s: float, took_s: float) -> dict[str, Any]:
    scored = [answer for answer in answers if answer.status == 200]
    good = [answer for answer in scored if answer.latency_s <= deadline_s]
    refused = [answer for answer in answers if answer.status in (429, 503)]
    n_failed = len(answers) - len(scored) - len(refused)
    return {
        "load": load,
        "offered_per_s": round(rate, 1),
        "good_per_s": round(len(good) / took_s, 1),
        "p50_ms": percentile_ms(scored, 50),
        "p99_ms": percentile_ms(scored, 99),
        "share_late": round(1 - len(good) / max(1, len(scored)), 4),
        "share_refused": round(len(refused) / len(answers), 3),
        "refused_p50_ms": percentile_ms(refused, 50),
        "refused_p99_ms": percentile_ms(refused, 99),
        "refused_without_retry_after": sum(answer.retry_after is None for answer in refused),
        "share_failed": round(n_failed / len(answers), 4),
        "generator_late_p99_ms": round(1000 * float(np.percentile([answer.late_s for answer in answers], 99)), 1),
    }


def percentile_ms(answers: Sequence[Answer], percentile: float) -> float | None:
    """To a tenth; None where there are no answers, as there need not be refusals at 1x."""
    return round(latency_ms(answers, percentile), 1) if answers else None


async def measure(host: str, port: int, request: bytes, seconds: float, deadline_s: float) -> list[dict[str, Any]]:
    processes = psutil.Process().children(recursive=True)
    await closed_loop(host, port, request, clients=CLIENTS, seconds=min(2.0, seconds))
    with usage_of(processes) as usage:
        capacity = await closed_loop(host, port, request, clients=CLIENTS, seconds=seconds)
    rows = [{"load": "closed", "good_per_s": round(capacity, 1), **usage}]
    show(rows[-1])
    for load in LOADS:
        own_s, begun = time.process_time(), time.perf_counter()
        with usage_of(processes) as usage:
            answers = await offer(
                host, port, request, rate=load * capacity, seconds=seconds, patience_s=deadline_s + 5, seed=load
            )
        took_s = time.perf_counter() - begun
        row = summarise(load, load * capacity, answers, deadline_s, took_s)
        row["generator_cores"] = round((time.process_time() - own_s) / took_s, 2)
        rows.append(row | usage)
        show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    click.echo("  ".join(f"{name} {value}" for name, value in row.items()))


@click.command()
@click.option("--models", type=click.Path(exists=True, path_type=Path), help="[default: the shipped models/]")
@click.option("--seconds", default=10.0, show_default=True, help="Length of each load.")
@click.option("--deadline-s", default=1.0, show_default=True, help="The service's deadline of a request.")
@click.option("--workers", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures as JSON here.")
def main(models: Path | None, seconds: float, deadline_s: float, workers: int, out: Path | None) -> None:
    frame = jpeg_frame()
    with live_service(models=models, workers=workers, settings={"deadline_s": deadline_s}) as url:
        host, port = url.removeprefix("http://").split(":")
        rows = uvloop.run(measure(host, int(port), http_request(frame), seconds, deadline_s))
    for row in rows:
        row["good_per_core"] = round(row["good_per_s"] / row["service_cores"], 1)
    peak = max(row["good_per_s"] for row in rows)
    per_core = rows[-1]["good_per_core"] / max(row["good_per_core"] for row in rows)
    ratio = rows[-1]["good_per_s"] / peak
    growth = rows[-1]["rss_mib"] / rows[0]["rss_mib"]
    click.echo(
        f"goodput at {LOADS[-1]}x: {ratio:.3f} of the peak of {peak}/s (bound {GOODPUT_BOUND}), {per_core:.3f} "
        f"per core that the service got; memory at "
        f"{LOADS[-1]}x: {growth:.2f} of that at capacity; p99 of the admitted {rows[-1]['p99_ms']} ms "
        f"(deadline {1000 * deadline_s:g} ms)"
    )
    if out:
        versions = {name: metadata.version(name) for name in ("bentoml", "onnxruntime-gpu", "uvicorn", "pillow")}
        about = {"command": shlex.join(sys.argv), "cores": available_cores(), "load_1m": os.getloadavg()[0]}
        settings = {"frame_bytes": len(frame), "seconds": seconds, "deadline_s": deadline_s, "workers": workers}
        write_json_atomic(
            out,
            {
                **about,
                "versions": versions,
                "settings": settings,
                "ratio": ratio,
                "ratio_per_core": per_core,
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
