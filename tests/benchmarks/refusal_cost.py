"""What it costs the service to refuse a frame, in CPU time, beside what it costs to score one.

    PYTHONPATH=.:tests python tests/benchmarks/refusal_cost.py --out refusal-cost.json

A service that may answer one request at a time is kept busy by one whose body never ends, so that it refuses all
others: by their head (`serving.http.early_refusal`), or, where the pair is named, by the handler, as all were before.
Both are asked in turn, with a frame's body and with a single byte, which tells what reading the body costs. Then the
one request ends, and a single client has frames scored.

The unit is the CPU time of the service's processes, which other programs disturb less than they disturb rates; the
load's own CPU time is not in it. The ranges over the rounds say how far it was disturbed.
"""

from __future__ import annotations

import shlex
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
import psutil
from service_overload import cpu_s, jpeg_frame
from support.live_service import live_service

from serving.devices import available_cores
from serving.durable import write_json_atomic

PATH, DEADLINE_S, SETTLE_S = "/v1/score", 600.0, 5.0


@contextmanager
def only_place_taken(url: str) -> Iterator[None]:
    """Hold the service's only place with a request whose body does not end."""
    host, port = url.removeprefix("http://").split(":")
    head = f"POST {PATH} HTTP/1.1\r\nHost: here\r\nContent-Type: image/jpeg\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as holder:
        holder.sendall(head.encode() + b"\xff")
        wait_for(url, 503)
        yield
    wait_for(url, 415, 422)


def wait_for(url: str, *statuses: int) -> None:
    """Wait, not for ever, until a frame that is none gets one of the statuses."""
    until = time.monotonic() + SETTLE_S
    while (status := httpx.post(url + PATH, content=b"x").status_code) not in statuses:
        if time.monotonic() > until:
            raise click.ClickException(f"{url}{PATH} answers {status}, not one of {statuses}, after {SETTLE_S:g} s")
        time.sleep(0.05)


def cost_ms(client: httpx.Client, path: str, body: bytes, *, n: int, status: int) -> float:
    """CPU milliseconds of the service for each of `n` requests, all of which must be answered with `status`."""
    processes = psutil.Process().children(recursive=True)
    before_s = cpu_s(processes)
    answers = [client.post(path, content=body, headers={"Content-Type": "image/jpeg"}).status_code for _ in range(n)]
    used_s = cpu_s(processes) - before_s
    if unexpected := sorted({answer for answer in answers if answer != status}):
        raise click.ClickException(f"{path} was answered with {unexpected}, not only with {status}")
    return 1000 * used_s / n


def measure(url: str, frame: bytes, *, rounds: int, n: int) -> dict[str, list[float]]:
    with httpx.Client(base_url=url, timeout=60) as client:
        pair = client.get("/v2/models").json()["models"][0]["name"]
        usual = f"{PATH}?pair={pair}"
        asked = {
            "refused_by_head": (PATH, frame),
            "refused_by_head_one_byte": (PATH, b"x"),
            "refused_by_handler": (usual, frame),
            "refused_by_handler_one_byte": (usual, b"x"),
        }
        costs: dict[str, list[float]] = {name: [] for name in asked}
        with only_place_taken(url):
            for _ in range(rounds):
                for name, (path, body) in asked.items():
                    costs[name].append(cost_ms(client, path, body, n=n, status=503))
        costs["scored"] = [cost_ms(client, PATH, frame, n=max(1, n // 10), status=200) for _ in range(rounds)]
    return costs


@click.command()
@click.option("--models", type=click.Path(exists=True, path_type=Path), help="[default: the shipped models/]")
@click.option("--rounds", default=5, show_default=True)
@click.option("--requests", "n", default=1000, show_default=True, help="Refusals of each kind in a round.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures as JSON here.")
def main(models: Path | None, rounds: int, n: int, out: Path | None) -> None:
    frame = jpeg_frame()
    with live_service(models=models, settings={"max_requests": 1, "deadline_s": DEADLINE_S}) as url:
        costs = measure(url, frame, rounds=rounds, n=n)
    found: dict[str, Any] = {}
    for name, values in costs.items():
        found[name] = {"median": statistics.median(values), "least": min(values), "most": max(values)}
        click.echo(f"{name:30}{found[name]['median']:7.3f} ms  ({min(values):.3f} to {max(values):.3f})")
    if out:
        about = {"command": shlex.join(sys.argv), "cores": available_cores(), "frame_bytes": len(frame)}
        write_json_atomic(out, {**about, "rounds": rounds, "requests": n, "cpu_ms": found})


if __name__ == "__main__":
    main()
