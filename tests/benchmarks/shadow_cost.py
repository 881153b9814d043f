"""What shadow mode costs those who wait for answers: throughput and latency with and without it, in turns.

    PYTHONPATH=.:tests python tests/benchmarks/shadow_cost.py --out shadow.json

Two services stand side by side, one of them with the default pair as its own shadow, which is the dearest candidate
that agrees. Each round loads one and then the other, first with a closed loop of 16 clients, which leaves no time
over, then at half of that rate. One 720x576 JPEG a request.

    ratio       of requests a second with shadow to those without, per round; the bound is that it stays near 1
    p50, p99    milliseconds at half load, with and without
    compared    share of the live frames that the shadow scored; the rest was dropped, as it must be under full load
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import click
import httpx
from service_overload import CLIENTS, http_request, jpeg_frame
from support.live_service import live_service
from support.open_loop import closed_loop, latency_ms, offer

from serving.devices import available_cores
from serving.durable import write_json_atomic
from serving.pairs.pair import find_pair, models_root


def counted(url: str, name: str) -> float:
    """The sum of all samples of a metric."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


async def load(url: str, request: bytes, seconds: float, rate: float) -> dict[str, float]:
    """One service under a closed loop and then at `rate` requests a second."""
    host, port = url.removeprefix("http://").split(":")
    before = counted(url, "pipeprobe_shadow_verdicts_total"), counted(url, "pipeprobe_score_count")
    full = await closed_loop(host, int(port), request, clients=CLIENTS, seconds=seconds)
    after = counted(url, "pipeprobe_shadow_verdicts_total"), counted(url, "pipeprobe_score_count")
    answers = await offer(host, int(port), request, rate=rate, seconds=seconds, patience_s=10, seed=0)
    return {
        "per_s": full,
        "p50_ms": latency_ms(answers, 50),
        "p99_ms": latency_ms(answers, 99),
        "failed": sum(answer.status != 200 for answer in answers),
        "compared_at_full_load": (after[0] - before[0]) / max(1, after[1] - before[1]),
    }


async def warm_up(url: str, request: bytes, seconds: float) -> float:
    """Requests a second of a service whose first ones are over."""
    host, port = url.removeprefix("http://").split(":")
    await closed_loop(host, int(port), request, clients=CLIENTS, seconds=1)
    return await closed_loop(host, int(port), request, clients=CLIENTS, seconds=seconds)


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Length of each load.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures as JSON here.")
def main(rounds: int, seconds: float, out: Path | None) -> None:
    request = http_request(jpeg_frame())
    shadow = find_pair(models_root()).reference
    rows: list[dict[str, Any]] = []
    with live_service() as plain, live_service(settings={"shadow": shadow}) as shadowed:
        capacity = min(asyncio.run(warm_up(url, request, seconds)) for url in (plain, shadowed))
        for number in range(rounds):
            order = (plain, shadowed) if number % 2 else (shadowed, plain)
            found = {url: asyncio.run(load(url, request, seconds, capacity / 2)) for url in order}
            rows.append({"without": found[plain], "with": found[shadowed]})
            ratio = found[shadowed]["per_s"] / found[plain]["per_s"]
            click.echo(f"round {number + 1}: ratio {ratio:.3f}  " + "  ".join(_row(rows[-1], key) for key in rows[-1]))
        frames = counted(shadowed, "pipeprobe_score_count")
        compared = counted(shadowed, "pipeprobe_shadow_verdicts_total") / frames
    ratios = sorted(row["with"]["per_s"] / row["without"]["per_s"] for row in rows)
    click.echo(
        f"throughput with shadow: {median(ratios):.3f} of that without (rounds: {ratios[0]:.3f} to {ratios[-1]:.3f}); "
        f"compared: {compared:.2f} of {frames:.0f} frames"
    )
    if out:
        about = {"command": shlex.join(sys.argv), "cores": available_cores(), "load_1m": os.getloadavg()[0]}
        versions = {name: metadata.version(name) for name in ("bentoml", "onnxruntime-gpu", "uvicorn", "pillow")}
        figures = {"ratio": median(ratios), "ratios": ratios, "compared": compared, "rows": rows}
        write_json_atomic(out, about | {"versions": versions} | figures)


def _row(row: dict[str, Any], key: str) -> str:
    values = row[key]
    return f"{key}: {values['per_s']:.0f}/s, p50 {values['p50_ms']:.1f} ms, p99 {values['p99_ms']:.1f} ms"


if __name__ == "__main__":
    main()
