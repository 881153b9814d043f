"""How much memory does training need of the host, for packs of several sizes?

    python tests/benchmarks/pack_memory.py --out memory.json

For each size a process of its own reads whole shuffled epochs of a pack on disk, as training does, and reports the most
private memory that it held (`RssAnon`). Pages of the pack in the system's file cache (`RssFile`) are given back when
memory is wanted and belong to no process; they are shown apart.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import click
import numpy as np

from serving.durable import write_json_atomic
from training.data.loader import epoch_batches
from training.data.pack import Pack
from training.provenance import provenance

BATCH = 256
# The largest pack may need this much more than the smallest, in MiB: noise of the allocator.
ALLOWED_GROWTH_MIB = 32.0


def read_epoch(path: Path, frames: int, size: int) -> dict[str, float]:
    """Read one epoch of the frames in `path`; most private memory and mapped file pages seen, MiB."""
    mapped = np.memmap(path, np.uint8, "r", shape=(frames, size, size, 3))
    pack = cast(Pack, FramePack(frames=mapped, path=path))
    most = {"RssAnon": 0.0, "RssFile": 0.0}
    with closing(epoch_batches(pack, batch_size=BATCH, epoch=0, seed=0)) as batches:
        for _ in batches:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in most:
                    most[name] = max(most[name], int(value.split()[0]) / 1024)
    return most


class FramePack(SimpleNamespace):
    """As much of a pack as the loader needs."""

    def __len__(self) -> int:
        return len(self.frames)


@click.command()
@click.option("--frames", default="5000,20000,80000", show_default=True, help="Sizes of the packs.")
@click.option("--size", default=112, show_default=True, help="Side of the frames.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where the figures go.")
@click.option("--child", hidden=True, type=click.Path(path_type=Path))
def main(frames: str, size: int, out: Path | None, child: Path | None) -> None:
    """Measure and print the table."""
    if child is not None:
        click.echo(json.dumps(read_epoch(child, int(frames), size)))
        return
    rows = []
    click.echo("  frames   pack MiB   private MiB   file cache MiB")
    for count in map(int, frames.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frames.u8"
            block = np.random.default_rng(0).integers(0, 256, size=1000 * size * size * 3, dtype=np.uint8)
            with path.open("wb") as file:
                for _ in range(-(-count // 1000)):
                    file.write(block)
            command = [sys.executable, __file__, "--child", str(path), "--frames", str(count), "--size", str(size)]
            most = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        mib = count * size * size * 3 / 2**20
        click.echo(f"{count:8d} {mib:10.0f} {most['RssAnon']:13.1f} {most['RssFile']:16.1f}")
        rows.append({"frames": count, "pack_mib": mib, "private_mib": most["RssAnon"], "cached_mib": most["RssFile"]})
    growth = rows[-1]["private_mib"] - rows[0]["private_mib"]
    click.echo(f"growth from the smallest to the largest: {growth:.1f} MiB (bound {ALLOWED_GROWTH_MIB})")
    if out is not None:
        made = provenance(shlex.join(["python", "tests/benchmarks/pack_memory.py", *sys.argv[1:]]))
        write_json_atomic(out, {**made, "size": size, "rows": rows, "growth_mib": growth, "bound": ALLOWED_GROWTH_MIB})


if __name__ == "__main__":
    main()
