"""`pipeprobe bench`: the service beside what this machine could do without HTTP."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import click

from serving.bench.bound import Bound, BoundRun, Setup, candidate_setups
from serving.bench.frames import bench_frames
from serving.bench.load import run_load
from serving.bench.report import Figures, lines, stage_means_ms
from serving.bench.service import metrics_page, own_service
from serving.devices import available_cores
from serving.limits import Settings
from serving.monitoring.metrics_summary import StageSummary, summarise_histograms
from serving.pairs.pair import MODELS_VARIABLE, find_pair, models_root


@click.command()
@click.option(
    "--models",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that holds the pairs.  [default: the shipped models/]",
)
@click.option("--pair", "name", help="Pair to measure.  [default: the default one]")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:INDEX.")
@click.option("--variant", type=click.Choice(["fp32", "fp16", "int8"]), help="[default: the fastest for the device]")
@click.option("--url", help="A running service, which must serve the same pair.  [default: one is started]")
@click.option("--key", default="", help="API key for --url.")
@click.option("--clients", default=16, show_default=True, type=click.IntRange(1, 256))
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0.1, 600), help="Of each measurement.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def command(
    models: Path | None,
    name: str | None,
    device: str,
    variant: str | None,
    url: str | None,
    key: str,
    clients: int,
    seconds: float,
    as_json: bool,
) -> None:
    """Measure this machine: the bound, the service, where the time goes, and what to change.

    The bound decodes and scores in one process with no HTTP, in the fastest of several ways to share the cores. The
    service gets the same 720x576 JPEGs of 120 kB from CLIENTS clients that each wait for their answer, then from one.
    Needs no other tool; the clients are Python on the same cores, and what they cost is printed. Other programs make
    every figure worse: measure on a machine that does nothing else.

    \b
    Example:
      pipeprobe bench
      pipeprobe bench --url http://127.0.0.1:3000 --json
    """
    if models is not None:
        os.environ[MODELS_VARIABLE] = str(models)
    settings = Settings.from_env()
    options = [*_option("--models", models), *_option("--pair", name), *_option("--variant", variant)]
    service = nullcontext((url.rstrip("/"), None)) if url else own_service([*options, "--device", device])
    jpegs = bench_frames()
    bound = Bound(find_pair(models_root(), name), jpegs, device=device, variant=variant)
    current, bounds = _bounds(bound, _service_setup(settings, device), device, seconds)
    with service as (address, start), tempfile.TemporaryDirectory() as folder:
        for index, jpeg in enumerate(jpegs):
            (Path(folder) / f"{index}.jpg").write_bytes(jpeg)
        before = _stages(address, key)
        load = run_load(address, Path(folder), clients=clients, seconds=seconds, key=key)
        stages = stage_means_ms(before, _stages(address, key))
        # Beside each other: the pace of a machine changes.
        alone = bound.alone()
        lone = run_load(address, Path(folder), clients=1, seconds=seconds, key=key)
    figures = Figures(
        cores=available_cores(),
        device=device,
        alone=alone,
        bounds=bounds,
        current=current,
        load=load,
        lone=lone,
        stages=stages,
    )
    if as_json:
        click.echo(json.dumps(figures.to_json() | {"start": asdict(start) if start else None}))
        return
    if start is not None:
        click.echo(f"start to ready     {start.seconds:8.1f} s, {start.cpu_s:.1f} s of a core")
    for line in lines(figures):
        click.echo(line)


def _option(name: str, value: object) -> list[str]:
    return [name, str(value)] if value else []


def _service_setup(settings: Settings, device: str) -> Setup:
    """How the service shares the cores, by the same PIPEPROBE_* variables."""
    return Setup(
        threads=settings.busy_threads(device),
        scorers=settings.scorers_of(device),
        decoders=settings.pool_threads(),
        batch=settings.batch_of(device),
    )


def _bounds(bound: Bound, current: Setup, device: str, seconds: float) -> tuple[BoundRun, list[BoundRun]]:
    """The service's own setup, and all setups with the fastest first; those that lead get the full time."""
    others = candidate_setups() if device == "cpu" else []
    tried = bound.best({current, *others}, seconds / 4)
    runs = bound.best({run.setup for run in tried[:2]} | {current}, seconds)
    return next(run for run in runs if run.setup == current), runs


def _stages(url: str, key: str) -> list[StageSummary]:
    return summarise_histograms(metrics_page(url, key))
