"""A pair on disk: one folder under `models/` with a manifest, ONNX files, golden outputs and a card.

    models/index.json                {"default": "<folder>", "pairs": ["<folder>", ...]}
    models/<folder>/manifest.json    see `serving.manifest`; names every other file with its SHA-256
    models/<folder>/model.<variant>.onnx, golden.npz, CARD.md

Loading checks all of it before a weight is used: the manifest's schema, the presence and SHA-256 of each
listed file, and that no ONNX or NumPy file lies there unlisted. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from serving.durable import sha256_file, write_json_atomic
from serving.errors import ConfigError, PairInvalidError, PairNotFoundError
from serving.manifest import (
    GOLDEN_FILE,
    JSON,
    SCHEMA_VERSION,
    Calibration,
    Manifest,
    Metric,
    OperatingPoint,
    Variant,
    VariantName,
    is_plain_name,
)

__all__ = [
    "GOLDEN_FILE",
    "INDEX_FILE",
    "JSON",
    "MANIFEST_FILE",
    "MODELS_VARIABLE",
    "SCHEMA_VERSION",
    "Calibration",
    "Manifest",
    "Metric",
    "OperatingPoint",
    "Pair",
    "Variant",
    "VariantName",
    "find_pair",
    "load_pair",
    "models_root",
    "pair_names",
    "write_index",
]

MANIFEST_FILE = "manifest.json"
INDEX_FILE = "index.json"
MODELS_VARIABLE = "PIPEPROBE_MODELS"

# Files that some program would load as a model or as arrays must be listed, or one could be slipped in.
_MUST_BE_LISTED = (".onnx", ".npz", ".npy", ".data", ".pt", ".pth", ".pkl", ".pickle")
_EXPORT_AGAIN = "restore the folder from where it was published, or export the pair again"


@dataclass(frozen=True)
class Pair:
    """A loaded pair: its folder and its validated manifest."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    def variant_path(self, name: str) -> Path:
        """The ONNX file of a variant; `PairNotFoundError` lists the variants that exist."""
        variant = self.manifest.variants.get(name)
        if variant is None:
            available = ", ".join(sorted(self.manifest.variants))
            raise PairNotFoundError(f"pair {self.name} has no variant {name!r}; it has {available}")
        return self.path / variant.file


def load_pair(path: Path, verify: bool = True) -> Pair:
    """Read and check the pair in folder `path`.

    `verify=False` skips the SHA-256 of the files, for when the same process has just checked or written them.
    Raises `PairNotFoundError` if there is no manifest, `PairInvalidError` if anything contradicts it.
    """
    manifest_path = path / MANIFEST_FILE
    if not manifest_path.is_file():
        raise PairNotFoundError(f"{path} is not a pair: it has no {MANIFEST_FILE}")
    try:
        manifest = Manifest.from_json(_read_json(manifest_path))
    except PairInvalidError as error:
        raise PairInvalidError(f"{manifest_path}: {error}") from error
    _check_folder(path, manifest)
    if verify:
        for file, expected in manifest.files.items():
            _check_sha256(path / file, expected)
    return Pair(path, manifest)


def find_pair(models: Path, name: str | None = None, verify: bool = True) -> Pair:
    """Load the pair in folder `models/<name>`, or the default that `models/index.json` names.

    Raises `PairNotFoundError`, listing the pairs that exist, and `PairInvalidError`.
    """
    folder = _default_folder(models) if name is None else name
    if folder not in pair_names(models):
        _raise_not_found(models, folder)
    pair = load_pair(models / folder, verify)
    if pair.name != folder:
        raise PairInvalidError(f"{pair.path}: the manifest names the pair {pair.name!r}; rename the folder to that")
    return pair


def pair_names(models: Path) -> list[str]:
    """Names of the folders under `models` that hold a manifest, sorted."""
    if not models.is_dir():
        return []
    return sorted(
        folder.name for folder in models.iterdir() if is_plain_name(folder.name) and (folder / MANIFEST_FILE).is_file()
    )


def models_root() -> Path:
    """Where pairs are looked for: $PIPEPROBE_MODELS, else `models/` beside the packages, else `./models`.

    Raises `ConfigError` if the variable names something that is not a folder.
    """
    named = os.environ.get(MODELS_VARIABLE)
    if named:
        if not Path(named).is_dir():
            raise ConfigError(f"{MODELS_VARIABLE}={named} is no folder; name the one that holds {INDEX_FILE}")
        return Path(named)
    # The index is asked for because an unrelated package named `models` may lie beside an installed one.
    shipped = Path(__file__).resolve().parent.parent / "models"
    return shipped if (shipped / INDEX_FILE).is_file() else Path("models")


def write_index(models: Path, default: str) -> None:
    """Write `models/index.json`: every pair that is there, and which one is used if none is named."""
    names = pair_names(models)
    if default not in names:
        _raise_not_found(models, default)
    write_json_atomic(models / INDEX_FILE, {"default": default, "pairs": names})


def _read_json(path: Path) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise PairInvalidError(f"is not readable JSON: {error}") from error


def _default_folder(models: Path) -> str:
    index_path = models / INDEX_FILE
    if not index_path.is_file():
        available = ", ".join(pair_names(models)) or "none"
        raise PairNotFoundError(
            f"no {index_path}, which would name the default pair; name one (available: {available}), "
            f"set {MODELS_VARIABLE}, or write it with `pipeprobe-train export --default`"
        )
    try:
        index = _read_json(index_path)
    except PairInvalidError as error:
        raise PairInvalidError(f"{index_path}: {error}") from error
    if not isinstance(index, dict) or set(index) != {"default", "pairs"} or not isinstance(index["default"], str):
        raise PairInvalidError(f'{index_path}: expected {{"default": NAME, "pairs": [NAME, ...]}}')
    return index["default"]


def _raise_not_found(models: Path, name: str) -> NoReturn:
    available = ", ".join(pair_names(models)) or "none"
    raise PairNotFoundError(f"no pair {name[:100]!r} in {models}; available: {available}")


def _check_folder(path: Path, manifest: Manifest) -> None:
    for file in manifest.files:
        if not (path / file).is_file():
            raise PairInvalidError(f"{path}: {file}, listed in the manifest, is missing; {_EXPORT_AGAIN}")
    for file_path in sorted(path.rglob("*")):
        listed = file_path.parent == path and file_path.name in manifest.files
        if file_path.suffix.lower() in _MUST_BE_LISTED and not listed:
            relative = file_path.relative_to(path)
            raise PairInvalidError(f"{path}: {relative} is not listed in the manifest; remove it")


def _check_sha256(path: Path, expected: str) -> None:
    got = sha256_file(path)
    if got != expected:
        raise PairInvalidError(
            f"{path} was changed or damaged: its SHA-256 is {got}, the manifest says {expected}; {_EXPORT_AGAIN}"
        )
