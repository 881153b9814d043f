"""A pair at another image size: the same weights, convolutional from end to end, on larger or smaller frames.

Benchmarks compare sizes with it. What it scores is not calibrated for its size, and nothing but speed may be read
off it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from serving.durable import sha256_file, write_bytes_atomic, write_json_atomic
from serving.frames import resize_frame
from serving.pairs.golden import load_golden
from serving.pairs.manifest import GOLDEN_FILE, OUTPUTS, Manifest
from serving.pairs.pair import MANIFEST_FILE, Pair, load_pair, write_index
from serving.scorer import Scorer

STRIDE = 32
"""Pixels per cell of the evidence of the convolutional encoders."""


def write_resized_pair(pair: Pair, models: Path, *, size: int, variant: str) -> Path:
    """Write one variant of `pair` as the default pair of `models`, for frames of `size` pixels; returns its folder."""
    folder = models / pair.name
    folder.mkdir(parents=True)
    declared = pair.manifest.variants[variant]
    cells = -(-size // STRIDE)
    write_bytes_atomic(folder / declared.file, _resized_graph(pair.variant_path(variant), size, cells))
    manifest = replace(pair.manifest, image_size=size, evidence_shape=(cells, cells), variants={variant: declared})
    frames = np.stack([resize_frame(frame, size) for frame in load_golden(pair).frames])
    _write(folder, manifest, {"frames": frames})
    scores = Scorer(load_pair(folder), variant=variant).score(frames)
    _write(folder, manifest, {"frames": frames} | {f"{variant}_{name}": getattr(scores, name) for name in OUTPUTS})
    write_index(models, pair.name)
    return folder


def _write(folder: Path, manifest: Manifest, golden: dict[str, NDArray[Any]]) -> None:
    np.savez(folder / GOLDEN_FILE, **golden)
    listed = {path.name: sha256_file(path) for path in folder.iterdir() if path.name != MANIFEST_FILE}
    write_json_atomic(folder / MANIFEST_FILE, replace(manifest, files=listed).to_json())


def _resized_graph(path: Path, size: int, cells: int) -> bytes:
    model = onnx.load(path)
    sides = {"frames": (1, 2), "evidence": (1, 2)}
    lengths = {"frames": size, "evidence": cells}
    for value in (*model.graph.input, *model.graph.output):
        for axis in sides.get(value.name, ()):
            value.type.tensor_type.shape.dim[axis].dim_value = lengths[value.name]
    # What lies between was inferred for the old size; ONNX Runtime infers it again.
    del model.graph.value_info[:]
    serialised: bytes = model.SerializeToString()
    return serialised
