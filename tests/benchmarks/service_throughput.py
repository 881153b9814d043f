"""How much of what this machine can score does the service score? Beside LitServe and a plain BentoML endpoint.

    PYTHONPATH=.:tests python tests/benchmarks/service_throughput.py --out throughput.json
    PYTHONPATH=.:tests python tests/benchmarks/service_throughput.py --size 224 --out throughput-224.json

Everything in one run: the same ONNX file, cores and frames (720x576 JPEGs of some 120 kB), in turns, several rounds.

    bound      decoding and the session in one process, with no HTTP; the best of several ways to share the cores
    single     16 clients, one JPEG a request            bound 0.90
    batch      4 clients, 32 JPEGs a request             bound 0.97
    raw        4 clients, 32 decoded frames a request (.npy): what is left without decoding; no bound
    litserve   16 clients; batches, its fast queue, the better of two ways to share the cores; our decoder: 1.3x
    bentoml    16 clients; a PIL.Image endpoint as in BentoML's first pages: 2.5x
    alone      one client: p50 at most decoding + inference, each measured alone just before and after, + 3 ms

Rates are medians over the rounds; each ratio is the median of its rounds' ratios. The load comes from wrk (C), on
the same cores: what it costs is printed beside what the servers cost, and how much more than any server it can send
is shown against a server that only reads. Where other programs use the cores, rates say little and the processor
time per frame still does, so ratios of it are printed as well, wrk's share counted in. Rates and latencies are then
not judged.
"""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import metadata
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import click
import httpx
import numpy as np
from peers.accounting import busiest_worker, thread_cpu_s, tree_cpu_s
from peers.servers import Server, all_servers
from support.resized_pair import write_resized_pair
from support.wrk import WrkRun, http_post, multipart, run_wrk, wrk_version

from serving.bench.bound import Bound, Setup, candidate_setups
from serving.bench.frames import bench_frames
from serving.devices import available_cores
from serving.durable import write_json_atomic
from serving.frames import decode_bytes
from serving.monitoring.metrics_summary import summarise_histograms
from serving.pairs.pair import Pair, find_pair, models_root

CLIENTS, BATCH_CLIENTS, BATCH = 16, 4, 32
BOUNDS = {"single": 0.90, "batch": 0.97, "litserve": 1.3, "bentoml": 2.5, "p99_over_p50": 3.0, "alone_extra_ms": 3.0}
FREE_CORES = 0.85
"""Share of the cores that the bound must have been given for rates and latencies to be judged."""

Row = dict[str, Any]
Verdict = tuple[str, float, float, bool | None]


def requests_of(jpegs: Sequence[bytes], side: int) -> dict[str, tuple[list[bytes], int, int]]:
    """For each way of asking: the requests, frames in each, and clients."""
    many = [jpegs[index % len(jpegs)] for index in range(BATCH)]
    file = BytesIO()
    np.save(file, np.stack([decode_bytes(jpeg, side) for jpeg in many]))
    files = [multipart("image", [jpeg]) for jpeg in jpegs]
    single = [http_post("/v1/score", jpeg, "image/jpeg") for jpeg in jpegs]
    return {
        "single": (single, 1, CLIENTS),
        "alone": (single, 1, 1),
        "batch": ([http_post("/v1/score/batch", *multipart("files", many))], BATCH, BATCH_CLIENTS),
        "raw": ([http_post("/v1/score/raw", file.getvalue(), "application/x-npy")], BATCH, BATCH_CLIENTS),
        "litserve": ([http_post("/predict", *each) for each in files], 1, CLIENTS),
        "bentoml": ([http_post("/score", *each) for each in files], 1, CLIENTS),
        "empty": (single, 1, CLIENTS),
    }


class Measurement:
    """The contenders of one pair, each measured in its turn."""

    def __init__(self, pair: Pair, servers: dict[str, Server], seconds: int) -> None:
        jpegs = bench_frames()
        self._bound = Bound(pair, jpegs)
        self._requests = requests_of(jpegs, pair.manifest.image_size)
        self._servers, self._seconds = servers, seconds

    def settle(self) -> tuple[Setup, str]:
        """The fastest way to share the cores, and the faster of the LitServes."""
        setups = [run.setup for run in self._bound.best(candidate_setups(), 1.0)[:3]]
        setup = self._bound.best(setups, self._seconds)[0].setup
        lit = max((name for name in self._servers if name.startswith("lit")), key=lambda name: self._rate(name))
        return setup, lit

    def bound(self, setup: Setup) -> Row:
        run = self._bound.run(setup, self._seconds)
        return {"frames_per_s": run.frames_per_s, "cpu_ms": run.cpu_ms, "cores": run.cores}

    def alone(self) -> Row:
        """One client's latencies, between two timings of such frames without HTTP: the machine's pace changes."""
        before, row, after = self._bound.alone(), self.ask("alone", "pipeprobe"), self._bound.alone()
        least = {name: (value + getattr(after, name)) / 2 for name, value in before.to_json().items()}
        return row | least | {"extra_ms": row["p50_ms"] - sum(least.values())}

    def ask(self, way: str, server: str) -> Row:
        """Load in one way: what the clients saw, and what server and wrk cost a frame."""
        requests, n_frames, clients = self._requests[way]
        with self._servers[server].turn() as running:
            pid = running.process.pid
            self._wrk(running, requests, clients, 1)
            used_s, began = tree_cpu_s(pid), time.perf_counter()
            run = self._wrk(running, requests, clients, self._seconds)
            took_s, used_s = time.perf_counter() - began, tree_cpu_s(pid) - used_s
        if run.failed or not run.requests_per_s:
            raise click.ClickException(
                f"{server} answered {run.requests_per_s:.1f} /s of {way}, failed {run.failed}; raise --seconds"
            )
        frames = run.requests_per_s * took_s * n_frames
        return {
            "frames_per_s": run.requests_per_s * n_frames,
            "p50_ms": run.p50_ms,
            "p99_ms": run.p99_ms,
            "cpu_ms": 1000 * used_s / frames,
            "wrk_cpu_ms": run.cpu_ms / n_frames,
            "cores": (used_s + run.cpu_ms * run.requests_per_s * took_s / 1000) / took_s,
        }

    def breakdown(self) -> Row:
        """Where a frame's time goes in the service: waiting by its own histograms, working by thread."""
        requests, _, clients = self._requests["single"]
        with self._servers["pipeprobe"].turn() as running:
            self._wrk(running, requests, clients, 1)
            worker, before = busiest_worker(running.process.pid), _stages(running.url)
            used = thread_cpu_s(worker)
            run = self._wrk(running, requests, clients, self._seconds)
            now, after = thread_cpu_s(worker), _stages(running.url)
        frames = run.requests_per_s * self._seconds
        return {
            "waiting_ms": {name: _mean_ms(before.get(name, (0, 0.0)), seen) for name, seen in after.items()},
            "working_ms": {kind: 1000 * (spent - used.get(kind, 0.0)) / frames for kind, spent in now.items()},
        }

    def _rate(self, server: str) -> float:
        return float(self.ask("litserve", server)["frames_per_s"])

    def _wrk(self, server: Server, requests: list[bytes], clients: int, seconds: int) -> WrkRun:
        return run_wrk(server.url, requests, clients=clients, seconds=seconds)


def _stages(url: str) -> dict[str, tuple[int, float]]:
    text = httpx.get(f"{url}/metrics", timeout=30).text
    return {row.stage: (row.count, row.count * row.mean_s) for row in summarise_histograms(text)}


def _mean_ms(before: tuple[int, float], after: tuple[int, float]) -> float:
    return 1000 * (after[1] - before[1]) / max(1, after[0] - before[0])


def judge(rounds: list[dict[str, Row]]) -> list[Verdict]:
    """Every figure beside its bound; rates are not judged where other programs took more than a little of the cores."""

    def ratio(upper: str, lower: str) -> float:
        return median(each[upper]["frames_per_s"] / each[lower]["frames_per_s"] for each in rounds)

    def cpu_ratio(way: str, other: str) -> float:
        """Processor time of a frame: of the other over ours, the load generator's with both."""
        return median(_cost(each[other]) / _cost(each[way]) for each in rounds)

    undisturbed = all(each["bound"]["cores"] >= FREE_CORES * available_cores() for each in rounds)
    pairs = [("single", "bound"), ("batch", "bound"), ("single", "litserve"), ("single", "bentoml")]
    verdicts: list[Verdict] = []
    for way, other in pairs:
        least = BOUNDS[way if other == "bound" else other]
        rate, cpu = ratio(way, other), cpu_ratio(way, other)
        verdicts.append((f"{way} / {other}, frames/s", rate, least, rate >= least if undisturbed else None))
        verdicts.append((f"{other} / {way}, cpu time a frame", cpu, least, cpu >= least))
    tail = median(each["single"]["p99_ms"] / each["single"]["p50_ms"] for each in rounds)
    extra = median(each["alone"]["extra_ms"] for each in rounds)
    for what, figure, name in (
        ("p99 / p50", tail, "p99_over_p50"),
        ("alone, extra ms at p50", extra, "alone_extra_ms"),
    ):
        verdicts.append((what, figure, BOUNDS[name], figure <= BOUNDS[name] if undisturbed else None))
    return verdicts


def _cost(row: Row) -> float:
    return float(row["cpu_ms"] + row.get("wrk_cpu_ms", 0.0))


def run_rounds(measurement: Measurement, rounds: int, note: Callable[[str], None]) -> tuple[Row, list[dict[str, Row]]]:
    """Settle what may be chosen, then all contenders in turns."""
    setup, lit = measurement.settle()
    note(f"bound: {setup}; LitServe: {lit}")
    turns = [("single", "pipeprobe"), ("batch", "pipeprobe"), ("raw", "pipeprobe")]
    turns += [("litserve", lit), ("bentoml", "bentoml"), ("empty", "empty")]
    done = []
    for number in range(rounds):
        # The bound before and after: what else the machine does changes within a round.
        before = measurement.bound(setup)
        rows = {way: measurement.ask(way, server) for way, server in turns}
        rows["alone"] = measurement.alone()
        after = measurement.bound(setup)
        rows["bound"] = {name: (before[name] + after[name]) / 2 for name in before}
        done.append(rows)
        note(f"round {number + 1}: " + ", ".join(f"{way} {row['frames_per_s']:.0f}/s" for way, row in rows.items()))
    return {"bound_setup": setup.to_json(), "litserve_setup": lit}, done


def show(rounds: list[dict[str, Row]], breakdown: Row, verdicts: list[Verdict]) -> None:
    click.echo("\n          frames/s   p50 ms   p99 ms  cpu ms/frame  wrk cpu ms/frame  cores in use")
    for way in ("bound", "single", "batch", "raw", "alone", "litserve", "bentoml", "empty"):
        values = [median(each[way].get(name, float("nan")) for each in rounds) for name in (
            "frames_per_s", "p50_ms", "p99_ms", "cpu_ms", "wrk_cpu_ms", "cores")]  # fmt: skip
        click.echo(
            f"{way:<9}{values[0]:9.1f}{values[1]:9.1f}{values[2]:9.1f}{values[3]:14.2f}{values[4]:18.3f}{values[5]:14.2f}"
        )
    click.echo("\nsingle, working, cpu ms a frame: " + _listed(breakdown["working_ms"]))
    click.echo("single, waiting and working, ms: " + _listed(breakdown["waiting_ms"]))
    most = median(each["empty"]["frames_per_s"] for each in rounds)
    click.echo(f"load generator: wrk sent {most:.0f} such requests/s to a server that only reads\n")
    for what, figure, bound, met in verdicts:
        verdict = {True: "met", False: "missed", None: "not judged: other programs used the cores"}[met]
        click.echo(f"{what:<36}{figure:8.2f}   (bound {bound:g}: {verdict})")


def _listed(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in figures.items())


@click.command()
@click.option("--models", type=click.Path(exists=True, path_type=Path), help="[default: the shipped models/]")
@click.option("--size", type=int, help="The default pair's weights at another image size.  [default: as it is]")
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=5, show_default=True, help="Of each turn.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures as JSON here.")
def main(models: Path | None, size: int | None, rounds: int, seconds: int, out: Path | None) -> None:
    """Measure, and print the ratios beside their bounds."""
    # Ended by `kill` or `timeout`, it must stop its servers all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    generator = wrk_version()
    if generator is None:
        raise click.ClickException("wrk is not installed; on Debian and Ubuntu: apt-get install wrk")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="throughput-")))
        pair = find_pair(models or models_root())
        if size is not None:
            write_resized_pair(pair, folder / "models", size=size, variant="int8")
            pair = find_pair(folder / "models")
        cores = available_cores()
        lit = {f"litserve-{cores}x1": (cores, 1, 8), f"litserve-1x{cores}": (1, cores, 16)}
        servers = stack.enter_context(all_servers(pair.path.parent, folder, lit))
        measurement = Measurement(pair, servers, seconds)
        chosen, done = run_rounds(measurement, rounds, click.echo)
        breakdown = measurement.breakdown()
    verdicts = judge(done)
    show(done, breakdown, verdicts)
    if out is not None:
        from training.provenance import provenance  # torch, which is not wanted beside what is measured

        made = provenance(shlex.join(["python", "tests/benchmarks/service_throughput.py", *sys.argv[1:]]))
        made["packages"] |= {name: metadata.version(name) for name in ("bentoml", "litserve", "uvicorn", "uvloop")}
        write_json_atomic(
            out,
            made
            | {"pair": pair.name, "image_size": pair.manifest.image_size, "generator": generator, "bounds": BOUNDS}
            | {"breakdown": breakdown, "rounds": done, **chosen}
            | {"verdicts": [{"what": w, "figure": f, "bound": b, "met": m} for w, f, b, m in verdicts]},
        )


if __name__ == "__main__":
    main()
