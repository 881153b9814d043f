"""Frames per second on a GPU: our scorer, the raw session, torch compiled in fp16; and decoding over processes.

    PYTHONPATH=. python tests/benchmarks/gpu_scoring.py --out gpu.json

Needs a CUDA device, ONNX Runtime's CUDA provider and, for torch, a pair of ours on the ResNet-18; refuses otherwise.

    session   `InferenceSession.run` with NumPy arrays: what one writes first
    scorer    ours: IO binding, padded batch sizes
    graphs    ours with buffers that stay and one CUDA graph for each batch size
    torch     the same architecture and input, channels last, fp16, torch.compile(mode="max-autotune")
    decode    JPEGs a second with 1, 2, 4, ... processes of one thread: what the GPU must be fed by

All get the same uint8 frames in host memory and give scores in host memory. The best of several rounds counts, in
turns, since other work on the machine only ever slows.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from itertools import repeat
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from serving.bench.frames import bench_frames
from serving.devices import available_cores, load_cuda_libraries, parse_device, providers_for
from serving.durable import write_json_atomic
from serving.errors import DeviceError
from serving.frames import decode_bytes
from serving.pairs.pair import Pair, find_pair, models_root
from serving.scorer import Scorer, default_variant
from training.backbones import build_encoder
from training.provenance import provenance

Work = Callable[[NDArray[np.uint8]], object]
BATCHES = (1, 4, 16, 32, 64, 128)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def raw_session(pair: Pair, device: str) -> Work:
    import onnxruntime

    parsed = parse_device(device)
    load_cuda_libraries(onnxruntime, parsed)
    path = pair.variant_path(default_variant(pair.manifest, parsed))
    session = onnxruntime.InferenceSession(str(path), providers=providers_for(parsed))
    return lambda frames: session.run(None, {"frames": frames})


def compiled_torch(pair: Pair, device: str) -> Work:
    """An untrained encoder and probe of the same shape: what counts is the time."""
    manifest = pair.manifest
    encoder = build_encoder(manifest.encoder, image_size=manifest.image_size)
    model = torch.nn.Sequential(encoder, torch.nn.Linear(manifest.feature_dim, 1), torch.nn.Sigmoid())
    model = model.to(device=device, dtype=torch.float16, memory_format=torch.channels_last).eval()
    mean, std = (torch.tensor(each, device=device, dtype=torch.float16).view(1, 3, 1, 1) for each in (MEAN, STD))

    def forward(frames: torch.Tensor) -> torch.Tensor:
        return model((frames.permute(0, 3, 1, 2).to(torch.float16) - mean) / std)

    compiled = torch.compile(forward, mode="max-autotune")

    def score(frames: NDArray[np.uint8]) -> object:
        with torch.inference_mode():
            return compiled(torch.from_numpy(frames).to(device)).cpu()

    return score


def best_rates(works: dict[str, Work], frames: NDArray[np.uint8], rounds: int, seconds: float) -> dict[str, float]:
    """Frames per second of each, which end with their scores on the host: nothing is left running."""
    best = dict.fromkeys(works, 0.0)
    for number in range(rounds + 1):
        for name, work in works.items():
            work(frames)
            began, n_frames = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                work(frames)
                n_frames += len(frames)
            if number:
                best[name] = max(best[name], n_frames / (time.perf_counter() - began))
    return best


def decode_many(jpegs: Sequence[bytes], side: int, n_frames: int) -> int:
    for index in range(n_frames):
        decode_bytes(jpegs[index % len(jpegs)], side)
    return n_frames


def decode_rates(jpegs: Sequence[bytes], side: int, n_frames: int) -> dict[int, float]:
    """JPEGs a second over processes, up to the cores that there are."""
    rates = {}
    workers = 1
    while workers <= available_cores():
        with ProcessPoolExecutor(workers) as pool:
            share = [repeat(value, workers) for value in (jpegs, side, n_frames)]
            list(pool.map(decode_many, *share))
            began = time.perf_counter()
            done = sum(pool.map(decode_many, *[repeat(value, workers) for value in (jpegs, side, n_frames)]))
            rates[workers] = done / (time.perf_counter() - began)
        workers *= 2
    return rates


def measure(pair: Pair, device: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    jpegs = bench_frames()
    side = pair.manifest.image_size
    ours, graphs = (
        Scorer(pair, device=device, max_batch=128),
        Scorer(pair, device=device, max_batch=128, cuda_graphs=True),
    )
    works = {
        "session": raw_session(pair, device),
        "scorer": ours.score,
        "graphs": graphs.score,
        "torch": compiled_torch(pair, device),
    }
    rows = []
    click.echo("batch " + "".join(f"{name:>12}" for name in works) + "   frames/s")
    for batch in BATCHES:
        frames = np.stack([decode_bytes(jpegs[index % len(jpegs)], side) for index in range(batch)])
        np.testing.assert_allclose(graphs.score(frames).score, ours.score(frames).score, atol=5e-3)
        rates = best_rates(works, frames, rounds, seconds)
        click.echo(f"{batch:5d} " + "".join(f"{rate:12.0f}" for rate in rates.values()))
        rows.append({"batch": batch, **{f"{name}_frames_per_s": rate for name, rate in rates.items()}})
    return rows


@click.command()
@click.option("--models", type=click.Path(exists=True, path_type=Path), help="[default: the shipped models/]")
@click.option("--device", default="cuda", show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="Of each turn.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures as JSON here.")
def main(models: Path | None, device: str, rounds: int, seconds: float, out: Path | None) -> None:
    """Measure and print the table."""
    pair = find_pair(models or models_root())
    try:
        Scorer(pair, device=device)
    except DeviceError as error:
        raise click.ClickException(f"this benchmark measures a GPU, and there is none to be used: {error}") from error
    rows = measure(pair, device, rounds, seconds)
    decoding = decode_rates(bench_frames(), pair.manifest.image_size, 200)
    click.echo("decode, processes: " + ", ".join(f"{n}: {rate:.0f}/s" for n, rate in decoding.items()))
    if out is not None:
        made = provenance(shlex.join(["python", "tests/benchmarks/gpu_scoring.py", *sys.argv[1:]]))
        made["packages"]["onnxruntime-gpu"] = metadata.version("onnxruntime-gpu")
        write_json_atomic(out, made | {"pair": pair.name, "device": device, "rows": rows, "decode_per_s": decoding})


if __name__ == "__main__":
    main()
