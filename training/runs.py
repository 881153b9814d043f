"""The run folder: one training experiment on disk.

    RUN/config.json     the frozen config
    RUN/run.json        status, command, git revision, packages, hardware, wall time
    RUN/metrics.jsonl   one JSON object a line
    RUN/checkpoint.pt   what resuming needs
    RUN/encoder.pt      what pretraining leaves; written last

`config.json` names at least `encoder` and `image_size`.
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch

from serving.durable import write_bytes_atomic, write_json_atomic
from serving.errors import DataError
from training.backbones import Encoder, build_encoder, seeded_init
from training.provenance import provenance as provenance

CONFIG = "config.json"
RUN = "run.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.pt"
ENCODER = "encoder.pt"


def random_encoder(name: str, image_size: int, seed: int) -> Encoder:
    """An untrained encoder whose weights depend on `seed` alone, in evaluation mode."""
    with seeded_init(seed):
        return build_encoder(name, image_size=image_size).eval()


def save_encoder(run: Path, encoder: Encoder) -> Path:
    """Write the encoder's weights to `run`; returns the file's path."""
    weights = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    save_tensors(run / ENCODER, {"encoder": encoder.name, "image_size": encoder.image_size, "state_dict": weights})
    return run / ENCODER


def load_encoder(run: Path) -> tuple[Encoder, dict[str, Any]]:
    """The trained encoder of `run`, on the CPU in evaluation mode, and the run's config.

    Raises:
        DataError: not a run folder, not finished, or its files disagree.
    """
    config = read_json(run / CONFIG)
    path = run / ENCODER
    if not path.is_file():
        raise DataError(f"{run} holds no {ENCODER}: the run has not finished; continue it with --resume")
    saved = load_tensors(path)
    for key in ("encoder", "image_size"):
        if saved[key] != config.get(key):
            raise DataError(f"{path} says {key}={saved[key]!r}, {run / CONFIG} says {config.get(key)!r}")
    encoder = build_encoder(saved["encoder"], image_size=saved["image_size"])
    try:
        encoder.load_state_dict(saved["state_dict"])
    except RuntimeError as error:
        raise DataError(f"{path} does not fit this version's {saved['encoder']}: {error}") from error
    return encoder.eval(), config


def save_tensors(path: Path, value: dict[str, Any]) -> None:
    """`torch.save`, but the file is either as it was or complete."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_bytes_atomic(path, buffer.getvalue())


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what `save_tensors` wrote, onto the CPU. Runs no code from the file.

    Raises:
        DataError: damaged, or not such a file.
    """
    try:
        value: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, LookupError, pickle.UnpicklingError, ValueError) as error:
        raise DataError(f"{path} cannot be read as tensors: {error!r}") from error
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a run folder.

    Raises:
        DataError: missing, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} is not a run folder: it holds no {path.name}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


def update_run(run: Path, **fields: Any) -> None:
    """Set `fields` in run.json; the other fields stay."""
    path = run / RUN
    known = read_json(path) if path.is_file() else {}
    write_json_atomic(path, {**known, **fields})
