"""What an output folder was begun with, written once: where training starts, and the pair to compare with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving.durable import sha256_file, write_json_atomic
from serving.errors import ConfigError
from serving.pairs.pair import INDEX_FILE, MANIFEST_FILE, Pair, find_pair
from training.retrain.job import RetrainConfig, RetrainOptions
from training.retrain.start import find_start
from training.runs import read_json

RETRAIN_JSON = "retrain.json"
# What cannot change in one output folder; all else can, and makes those stages again that depend on it.
_FIXED = ("footage", "init", "from_scratch", "method", "encoder", "image_size")


def begin(config: RetrainConfig, options: RetrainOptions, out: Path) -> dict[str, Any]:
    """The record of what `out` was begun with, written now if there is none.

    Keys: settings, start, default (the pair to compare with), command. Both pairs are settled here, since a promotion
    changes which one is the default.

    Raises:
        ConfigError: `out` was begun with other footage, or to start from another encoder.
        PairError, DataError: the encoder to start from cannot be read.
    """
    path = out / RETRAIN_JSON
    settings = json.loads(json.dumps(asdict(config)))
    if path.is_file():
        begun = read_json(path)
        _refuse_other(out, begun["settings"], settings)
        return begun
    start = find_start(
        options.models,
        init=config.init,
        from_scratch=config.from_scratch,
        method=config.method,
        encoder=config.encoder,
        image_size=config.image_size,
    )
    default = find_pair(options.models) if (options.models / INDEX_FILE).is_file() else None
    begun = {
        "settings": settings,
        "start": start.to_json(),
        "default": None if default is None else describe_pair(default),
        "command": options.command,
    }
    write_json_atomic(path, begun)
    return begun


def describe_pair(pair: Pair) -> dict[str, str]:
    """Enough to know the pair again."""
    return {"name": pair.name, "version": pair.version, "sha256": sha256_file(pair.path / MANIFEST_FILE)}


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _refuse_other(out: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    differing = [f"{key}: {there.get(key)} there, {here[key]} now" for key in _FIXED if there.get(key) != here[key]]
    if differing:
        raise ConfigError(
            f"{out} was begun with other settings ({'; '.join(differing)}): give the same ones to continue, or another "
            "--out to start anew"
        )
