"""Frames per second of the same SimCLR training step, fed by our pack and views, and by lightly's way of doing it.

    python tests/benchmarks/pipeline_throughput.py --out pipeline.json
    python tests/benchmarks/pipeline_throughput.py --device cuda --workers 16 --batch 256 --out pipeline.json

Ours: a pack on disk, read ahead by a thread (kept on a GPU that it fits on), views drawn in batches on the training
device. lightly's: the same frames as PNG files, decoded and transformed by its SimCLRTransform in the worker processes
of a torch DataLoader. Between them the model-only ceiling: the same step on views that are ready on the device. Where
the step itself is most of the cost, as on a CPU, no pipeline can be much faster than another: the ceiling says so.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from serving.durable import write_json_atomic
from training.backbones import build_encoder, seeded_init
from training.config import PretrainConfig
from training.data.augment import make_views
from training.data.classes import CLASS_CODES
from training.data.frame_table import NO_INSPECTION, FrameTable
from training.data.image_store import FilePlace, ImageStore
from training.data.loader import epoch_batches
from training.data.pack import Pack, build_pack
from training.methods import METHODS, Method
from training.optim import build_optimizer
from training.precision import fastest_precision, forward_in
from training.provenance import provenance
from training.recipes import RECIPES

BOUND_LIGHTLY, BOUND_CEILING = 3.0, 0.85


class PNGFiles(Dataset[list[Tensor]]):
    """The frames as files, transformed when asked for."""

    def __init__(self, paths: list[Path], transform: SimCLRTransform) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> list[Tensor]:
        with Image.open(self.paths[place]) as picture:
            views: list[Tensor] = self.transform(picture.convert("RGB"))
        return views


class Trainer:
    """One network and its step."""

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        with seeded_init(0):
            encoder = build_encoder(config.encoder, image_size=config.image_size)
            self.method: Method = METHODS[config.method](encoder, config.method_config)
        self.method.to(device=device, memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.method, config.optim)
        self.device, self.precision = device, config.precision

    def step(self, views: list[Tensor]) -> None:
        with forward_in(self.precision, self.device):
            loss = self.method.loss(views, 0.0)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def write_frames(folder: Path, count: int, size: int) -> list[Path]:
    """Blotchy pictures as PNG files."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    paths = [folder / f"{i:06d}.png" for i in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, size=(8, 8, 3), dtype=np.uint8))
        coarse.resize((size, size)).save(path, compress_level=1)
    return paths


def pack_frames(paths: list[Path], size: int, out: Path) -> Pack:
    """The same frames as a pack."""
    names = tuple(path.name for path in paths)
    table = FrameTable(
        source="benchmark: drawn blotches",
        split="all",
        names=names,
        labels=np.full(len(names), -1, np.int8),
        classes=np.zeros((len(names), len(CLASS_CODES)), np.uint8),
        inspections=np.full(len(names), NO_INSPECTION, np.int32),
        store=ImageStore({path.name: FilePlace(str(path)) for path in paths}),
    )
    return build_pack(table, size=size, out=out)


def ours(pack: Pack, trainer: Trainer, batch: int, resident: bool) -> Iterator[list[Tensor]]:
    """Views without end, from the pack."""
    epoch = 0
    while True:
        for frames in epoch_batches(
            pack, batch_size=batch, epoch=epoch, seed=0, device=trainer.device, resident=resident
        ):
            yield make_views(frames, trainer.method.views, torch.Generator().manual_seed(epoch))
        epoch += 1


def lightlys(paths: list[Path], size: int, trainer: Trainer, batch: int, workers: int) -> Iterator[list[Tensor]]:
    """Views without end, from the files."""
    loader = DataLoader(
        PNGFiles(paths, SimCLRTransform(input_size=size)), batch_size=batch, shuffle=True, drop_last=True,
        num_workers=workers, persistent_workers=True, pin_memory=trainer.device.type == "cuda",
    )  # fmt: skip
    while True:
        for views in loader:
            yield [
                view.to(trainer.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
                for view in views
            ]


def frames_per_s(feed: Iterator[list[Tensor]], trainer: Trainer, batch: int, warmup: int, steps: int) -> float:
    """Rate of whole steps after some that are not timed."""
    for views in islice(feed, warmup):
        trainer.step(views)
    _synchronise(trainer.device)
    started = time.perf_counter()
    for views in islice(feed, steps):
        trainer.step(views)
    _synchronise(trainer.device)
    return steps * batch / (time.perf_counter() - started)


def measure(encoder: str, size: int, batch: int, workers: int, steps: int, device: torch.device) -> dict[str, Any]:
    """The three rates and their ratios."""
    config = RECIPES["simclr", encoder](image_size=size, batch_size=batch, precision=fastest_precision(device.type))
    with tempfile.TemporaryDirectory() as folder:
        paths = write_frames(Path(folder) / "png", 8 * batch, size)
        pack = pack_frames(paths, size, Path(folder) / "pack")
        trainer = Trainer(config, device)
        warmup = 3
        ready = next(ours(pack, trainer, batch, resident=False))
        rates = {
            "ours": frames_per_s(ours(pack, trainer, batch, device.type == "cuda"), trainer, batch, warmup, steps),
            "ceiling": frames_per_s(iter(lambda: ready, None), trainer, batch, warmup, steps),
            "lightly": frames_per_s(lightlys(paths, size, trainer, batch, workers), trainer, batch, warmup, steps),
        }
    return {
        "encoder": encoder, "size": size, "batch": batch, "workers": workers, "steps": steps,
        **{f"{name}_frames_per_s": rate for name, rate in rates.items()},
        "ours_over_lightly": rates["ours"] / rates["lightly"],
        "ours_over_ceiling": rates["ours"] / rates["ceiling"],
        "lightly_over_ceiling": rates["lightly"] / rates["ceiling"],
    }  # fmt: skip


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@click.command()
@click.option("--encoder", default="resnet18", show_default=True)
@click.option("--size", default=112, show_default=True, help="Side of frames and views.")
@click.option("--batch", default=64, show_default=True)
@click.option("--workers", default=2, show_default=True, help="Of lightly's loader: the machine's cores are fair.")
@click.option("--steps", default=6, show_default=True, help="Timed, after three that are not.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def main(encoder: str, size: int, batch: int, workers: int, steps: int, device: str, out: Path) -> None:
    """Measure and print the rates."""
    row = measure(encoder, size, batch, workers, steps, torch.device(device))
    click.echo(f"{encoder}, {size} px, batch {batch}, {device}: frames/s of whole training steps")
    for name in ("ours", "lightly", "ceiling"):
        click.echo(f"  {name:<8} {row[f'{name}_frames_per_s']:9.1f}")
    click.echo(f"  ours / lightly {row['ours_over_lightly']:.2f} (bound {BOUND_LIGHTLY} on a GPU)")
    click.echo(f"  ours / ceiling {row['ours_over_ceiling']:.3f} (bound {BOUND_CEILING} on a GPU)")
    click.echo(f"  lightly / ceiling {row['lightly_over_ceiling']:.3f}")
    made = provenance(shlex.join(["python", "tests/benchmarks/pipeline_throughput.py", *sys.argv[1:]]))
    bounds = {"bound_over_lightly": BOUND_LIGHTLY, "bound_over_ceiling": BOUND_CEILING}
    write_json_atomic(out, {**made, **row, **bounds, "device": device, "lightly": metadata.version("lightly")})


if __name__ == "__main__":
    main()
