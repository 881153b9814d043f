"""A pair on disk: one folder under `models/` with a manifest, ONNX files, golden outputs and a card.

    models/<folder>/manifest.json    see `serving.pairs.manifest`; names every other file with its SHA-256
    models/<folder>/model.<variant>.onnx, golden.npz, CARD.md

`serving.pairs.pair_index` says what the folders are called. Loading checks all of it before a weight is used: the
manifest's schema, the presence and SHA-256 of each listed file, and that no other file lies there: a model may
name one, of any name, as where its weights are. Nothing is ever unpickled, and a folder that holds a pickle is
refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from serving.durable import sha256_file
from serving.errors import ConfigError, PairInvalidError, PairNotFoundError
from serving.pairs.manifest import (
    GOLDEN_FILE,
    JSON,
    SCHEMA_VERSION,
    Calibration,
    Manifest,
    Metric,
    OperatingPoint,
    Variant,
    VariantName,
)
from serving.pairs.pair_index import (
    INDEX_FILE,
    MANIFEST_FILE,
    MODELS_VARIABLE,
    find_folder,
    pair_folders,
    raise_not_found,
    read_index,
    read_json,
    write_index,
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
    "load_folder",
    "load_pair",
    "models_root",
    "pair_folders",
    "write_index",
]

# Loading one runs what it says. Nothing here does, but somebody who finds it beside a model would.
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt")
_OF_FILE_MANAGERS = (".DS_Store", "Thumbs.db", "desktop.ini")
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

    @property
    def reference(self) -> str:
        """NAME@VERSION, which no other pair has."""
        return f"{self.name}@{self.version}"

    @property
    def manifest_sha256(self) -> str:
        """Of the manifest's file, which names the SHA-256 of every other file of the pair."""
        return sha256_file(self.path / MANIFEST_FILE)

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
        manifest = Manifest.from_json(read_json(manifest_path))
    except PairInvalidError as error:
        raise PairInvalidError(f"{manifest_path}: {error}") from error
    _check_folder(path, manifest)
    if verify:
        for file, expected in manifest.files.items():
            _check_sha256(path / file, expected)
    return Pair(path, manifest)


def find_pair(models: Path, reference: str | None = None, verify: bool = True) -> Pair:
    """Load the pair NAME or NAME@VERSION, or the default that `models/index.json` names.

    Raises `PairNotFoundError`, listing the pairs that exist, and `PairInvalidError`.
    """
    folder = read_index(models).default if reference is None else find_folder(models, reference)
    return load_folder(models, folder, verify)


def load_folder(models: Path, folder: str, verify: bool = True) -> Pair:
    """Load the pair in the very folder `models/<folder>`; raises as `find_pair`."""
    if folder not in pair_folders(models):
        raise_not_found(models, folder)
    pair = load_pair(models / folder, verify)
    if folder not in (pair.name, pair.reference):
        raise PairInvalidError(
            f"{pair.path}: the manifest names the pair {pair.name!r}, version {pair.version!r}; rename the folder to "
            f"{pair.name} or {pair.reference}"
        )
    return pair


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
    shipped = Path(__file__).resolve().parents[2] / "models"
    return shipped if (shipped / INDEX_FILE).is_file() else Path("models")


def _check_folder(path: Path, manifest: Manifest) -> None:
    for file in manifest.files:
        if not (path / file).is_file():
            raise PairInvalidError(f"{path}: {file}, listed in the manifest, is missing; {_EXPORT_AGAIN}")
    for file_path in sorted(path.rglob("*")):
        relative = file_path.relative_to(path)
        if file_path.suffix.lower() in _PICKLES:
            raise PairInvalidError(f"{path}: {relative} may be a pickle, which can run code when it is read; remove it")
        is_listed = str(relative) in manifest.files or str(relative) == MANIFEST_FILE
        if not is_listed and not file_path.is_dir() and not _is_harmless(file_path.name):
            raise PairInvalidError(f"{path}: {relative} is not listed in the manifest; remove it")


def _is_harmless(name: str) -> bool:
    """Whether a file is what a file manager, or a writer that was killed (`serving.durable`), leaves behind."""
    return name in _OF_FILE_MANAGERS or (name.startswith(".") and name.endswith(".partial"))


def _check_sha256(path: Path, expected: str) -> None:
    got = sha256_file(path)
    if got != expected:
        raise PairInvalidError(
            f"{path} was changed or damaged: its SHA-256 is {got}, the manifest says {expected}; {_EXPORT_AGAIN}"
        )
