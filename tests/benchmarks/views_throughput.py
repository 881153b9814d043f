"""How many augmented views does one core make a second, beside lightly's transforms on the same frames?

    python tests/benchmarks/views_throughput.py --out views.json

Ours draws a batch of packed frames; lightly's SimCLRTransform and DINOTransform get the same frames as PIL pictures
that are already in memory, so that decoding counts for neither. Both make views of the same number and size, on one
thread, in turns, in one process. The best of several rounds counts, since other work on the machine only ever slows.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from lightly.transforms import DINOTransform, SimCLRTransform
from PIL import Image

from serving.durable import write_json_atomic
from training.data.augment import ViewSpec, make_views, multi_crop_views, symmetric_views
from training.provenance import provenance

BOUND = 2.0
LOCAL_VIEWS = 6


def best_rates(works: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Views per second of each, the best round of several in which they take turns; the first is not timed."""
    best = dict.fromkeys(works, 0.0)
    for number in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            made = work()
            rate = made / (time.perf_counter() - start)
            if number:
                best[name] = max(best[name], rate)
    return best


def drawn_frames(count: int, size: int) -> np.ndarray:
    """uint8 [count, size, size, 3]: blotches, as cheap or dear to transform as photographs."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, size=(count, 8, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(frame).resize((size, size))) for frame in coarse])


def measure(
    name: str, frames: np.ndarray, spec: ViewSpec, transform: Callable[[Any], Any], rounds: int
) -> dict[str, Any]:
    """One row of the table."""
    batch = torch.from_numpy(frames)
    pictures = [Image.fromarray(frame) for frame in frames]
    generator = torch.Generator().manual_seed(0)

    def ours() -> int:
        return len(make_views(batch, spec, generator)) * len(frames)

    def lightlys() -> int:
        return sum(len(transform(picture)) for picture in pictures)

    rates = best_rates({"ours": ours, "lightly": lightlys}, rounds)
    return {
        "views": name,
        "frame_size": frames.shape[1],
        "ours_views_per_s": rates["ours"],
        "lightly_views_per_s": rates["lightly"],
        "ratio": rates["ours"] / rates["lightly"],
    }


@click.command()
@click.option("--sizes", default="112,224", show_default=True, help="Sides of the frames and of the large views.")
@click.option("--frames", default=64, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def main(sizes: str, frames: int, rounds: int, out: Path) -> None:
    """Measure on one thread and print the table."""
    torch.set_num_threads(1)
    rows = []
    click.echo("  views    size   ours/s  lightly/s   ratio (bound 2.0)")
    for size in map(int, sizes.split(",")):
        drawn = drawn_frames(frames, size)
        local = size // 16 * 8
        kinds = (
            ("simclr", symmetric_views(size), SimCLRTransform(input_size=size)),
            (
                "dino",
                multi_crop_views(size, local_size=local, local_count=LOCAL_VIEWS),
                DINOTransform(global_crop_size=size, local_crop_size=local, n_local_views=LOCAL_VIEWS),
            ),
        )
        for name, spec, transform in kinds:
            row = measure(name, drawn, spec, transform, rounds)
            click.echo(
                f"{name:>7} {size:7d} {row['ours_views_per_s']:8.0f} {row['lightly_views_per_s']:10.0f} "
                f"{row['ratio']:7.2f}"
            )
            rows.append(row)
    made = provenance(shlex.join(["python", "tests/benchmarks/views_throughput.py", *sys.argv[1:]]))
    versions = {"lightly": metadata.version("lightly"), "threads": 1, "bound": BOUND}
    write_json_atomic(out, {**made, **versions, "rows": rows})


if __name__ == "__main__":
    main()
