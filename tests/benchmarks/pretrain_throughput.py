"""How much of the encoder's own speed does a pretraining step reach?

    python tests/benchmarks/pretrain_throughput.py --out throughput.json

For each image size and batch size, the views per second of whole SimCLR steps (frames in, views drawn, loss,
backward, optimiser) beside the ceiling: forward and backward of the bare encoder on ready-made views, same precision
and layout. Warms up first, and takes the best of a few rounds, since other work on the machine only ever slows.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import numpy as np
import torch

from serving.durable import write_json_atomic
from training.data.augment import make_views
from training.data.pack import Pack
from training.loop import LoopOptions, _Loop
from training.precision import fastest_precision
from training.provenance import provenance
from training.recipes import RECIPES

BOUND = 0.85


class FramePack(SimpleNamespace):
    """As much of a pack as a step needs."""

    def __len__(self) -> int:
        return len(self.frames)


def best_seconds(work: Callable[[], object], rounds: int, device: torch.device) -> float:
    """Shortest of `rounds` timed calls, after one that is not timed."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def measure(encoder: str, size: int, batch: int, *, device: str, precision: str, rounds: int) -> dict[str, Any]:
    """Views per second of the drawing, of the step, and of the ceiling."""
    frames = np.random.default_rng(0).integers(0, 256, size=(batch, size, size, 3), dtype=np.uint8)
    pack = FramePack(frames=frames, size=size, path=Path("random"), digest="")
    config = RECIPES["simclr", encoder](image_size=size, batch_size=batch, epochs=1000, precision=precision)
    loop = _Loop(config, cast(Pack, pack), Path(), LoopOptions(device=device))
    on_device = torch.from_numpy(frames).to(loop.device)
    generator = torch.Generator().manual_seed(0)
    ready = torch.cat(make_views(on_device, loop.method.views, generator))

    def ceiling() -> None:
        with loop._autocast():
            features = loop.method.encoder(ready)
        features.float().square().mean().backward()
        loop.method.zero_grad()

    seconds = {
        "draw": best_seconds(lambda: make_views(on_device, loop.method.views, generator), rounds, loop.device),
        "step": best_seconds(lambda: loop.train_step(on_device), rounds, loop.device),
        "ceiling": best_seconds(ceiling, rounds, loop.device),
    }
    found = {f"{name}_views_per_s": 2 * batch / value for name, value in seconds.items()}
    return {"size": size, "batch": batch, **found, "share": seconds["ceiling"] / seconds["step"]}


@click.command()
@click.option("--encoder", default="resnet18", show_default=True)
@click.option("--sizes", default="96,112,128", show_default=True)
@click.option("--batches", default="128,256", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", help="[default: bf16 where the hardware has it, else fp32]")
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=2, show_default=True)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def main(
    encoder: str, sizes: str, batches: str, device: str, precision: str | None, threads: int, rounds: int, out: Path
) -> None:
    """Measure and print the table."""
    torch.set_num_threads(threads)
    precision = precision or fastest_precision(device)
    rows = []
    click.echo("  size  batch   draw/s   step/s  ceiling/s  share (bound 0.85)")
    for size in map(int, sizes.split(",")):
        for batch in map(int, batches.split(",")):
            row = measure(encoder, size, batch, device=device, precision=precision, rounds=rounds)
            rates = [row[f"{name}_views_per_s"] for name in ("draw", "step", "ceiling")]
            click.echo(f"{size:6d} {batch:6d} {rates[0]:8.0f} {rates[1]:8.1f} {rates[2]:10.1f}  {row['share']:.3f}")
            rows.append(row)
    made = provenance(shlex.join(["python", "tests/benchmarks/pretrain_throughput.py", *sys.argv[1:]]))
    setting = {"encoder": encoder, "device": device, "precision": precision, "threads": threads, "bound": BOUND}
    write_json_atomic(out, {**made, **setting, "rows": rows})


if __name__ == "__main__":
    main()
