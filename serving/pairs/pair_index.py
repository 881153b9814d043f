"""Which pairs lie under `models/`, in which versions, and which one is the default.

    models/index.json        {"default": FOLDER, "pairs": [FOLDER, ...], "history": [{"default": ..., "until": ...}]}
    models/NAME              the first version of a pair that was exported
    models/NAME@VERSION      its further versions, side by side with it

The default is a folder, so that a version is settled, not looked up. `history` holds the defaults before it, the
latest last, each with the time when it was replaced (ISO 8601); an index without it, as older releases wrote, is
read as one whose default was never replaced. A pair is referred to as NAME or NAME@VERSION; NAME alone is the
version of it that was promoted last, else the one in the folder of that name. No name or version can hold a
separator or begin with a dot, so no reference leads out of `models/`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from serving.durable import write_json_atomic
from serving.errors import ConfigError, PairInvalidError, PairNotFoundError
from serving.pairs.manifest import is_plain_name

INDEX_FILE = "index.json"
MANIFEST_FILE = "manifest.json"
MODELS_VARIABLE = "PIPEPROBE_MODELS"

# Defaults of before that are kept on record.
_HISTORY = 100
_FORMAT = '{"default": FOLDER, "pairs": [FOLDER, ...], "history": [{"default": FOLDER, "until": TIME}, ...]}'


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """A default of before: its folder, and when another took its place."""

    default: str
    until: str


@dataclass(frozen=True, kw_only=True)
class PairIndex:
    """What `models/index.json` says: the default pair's folder, and the defaults before it, the latest last."""

    default: str
    history: tuple[Replaced, ...] = ()

    def with_default(self, folder: str) -> PairIndex:
        """The index after a promotion of `folder`."""
        if folder == self.default:
            return self
        until = datetime.now(UTC).isoformat(timespec="seconds")
        history = (*self.history, Replaced(default=self.default, until=until))
        return PairIndex(default=folder, history=history[-_HISTORY:])

    def rolled_back(self) -> PairIndex:
        """The index as it was before the last promotion; `PairNotFoundError` if there was none."""
        if not self.history:
            raise PairNotFoundError(
                f"{self.default} is the first default pair that is on record: there is none to go back to; "
                "name one with `pipeprobe models promote`"
            )
        return PairIndex(default=self.history[-1].default, history=self.history[:-1])


def is_pair_reference(text: str) -> bool:
    """Whether `text` is a NAME or NAME@VERSION that could exist."""
    name, separator, version = text.partition("@")
    return is_plain_name(name) and (not separator or is_plain_name(version))


def pair_folders(models: Path) -> list[str]:
    """The folders under `models` that hold a manifest, sorted: NAME or NAME@VERSION."""
    if not models.is_dir():
        return []
    return sorted(
        folder.name
        for folder in models.iterdir()
        if is_pair_reference(folder.name) and (folder / MANIFEST_FILE).is_file()
    )


def find_folder(models: Path, reference: str) -> str:
    """The folder of NAME or NAME@VERSION; raises `PairNotFoundError`, listing the pairs that exist."""
    folders = pair_folders(models)
    name, _, version = reference.partition("@")
    if not is_pair_reference(reference):
        raise_not_found(models, reference)
    if version:
        if reference in folders:
            return reference
        if name in folders and stated_version(models / name) == version:
            return name
        raise_not_found(models, reference)
    versions = [folder for folder in folders if folder.partition("@")[0] == name]
    if not versions:
        raise_not_found(models, reference)
    if len(versions) == 1:
        return versions[0]
    return _promoted_last(models, versions) or (name if name in versions else _raise_ambiguous(name, versions))


def new_folder(models: Path, name: str, version: str) -> Path:
    """Where a new version of a pair goes; `ConfigError` if that version is there already."""
    versions = [folder for folder in pair_folders(models) if folder.partition("@")[0] == name]
    folder = models / (f"{name}@{version}" if versions or (models / name).exists() else name)
    for there in (folder, *(models / other for other in versions)):
        if there.exists() and (there == folder or stated_version(there) == version):
            raise ConfigError(
                f"{there} exists and pairs are never overwritten: give another version or name, or remove the folder"
            )
    return folder


def stated_version(folder: Path) -> str:
    """The version that the folder's manifest states, unchecked otherwise; "" if it cannot be read."""
    try:
        manifest = read_json(folder / MANIFEST_FILE)
    except PairInvalidError:
        return ""
    version = manifest.get("version") if isinstance(manifest, dict) else None
    return version if isinstance(version, str) else ""


def read_index(models: Path) -> PairIndex:
    """Read `models/index.json`; `PairNotFoundError` if there is none, `PairInvalidError` if it is not one."""
    path = models / INDEX_FILE
    if not path.is_file():
        raise PairNotFoundError(
            f"no {path}, which would name the default pair; name one (available: {_available(models)}), "
            f"set {MODELS_VARIABLE}, or write it with `pipeprobe models promote NAME`"
        )
    try:
        index = read_json(path)
    except PairInvalidError as error:
        raise PairInvalidError(f"{path}: {error}") from error
    if not isinstance(index, dict) or not {"default", "pairs"} <= set(index) <= {"default", "pairs", "history"}:
        raise PairInvalidError(f"{path}: expected {_FORMAT}")
    history = index.get("history", [])
    if not isinstance(history, list) or not all(
        isinstance(entry, dict) and set(entry) == {"default", "until"} for entry in history
    ):
        raise PairInvalidError(f"{path}: expected {_FORMAT}")
    for value in (index["default"], *(value for entry in history for value in entry.values())):
        if not isinstance(value, str):
            raise PairInvalidError(f"{path}: expected {_FORMAT}")
    return PairIndex(default=index["default"], history=tuple(Replaced(**entry) for entry in history))


def write_index(models: Path, default: str) -> None:
    """Make the pair in folder `default` the default, and list every pair that is there.

    Raises `PairNotFoundError` if there is no such folder.
    """
    with editing(models):
        before = read_index(models) if (models / INDEX_FILE).is_file() else PairIndex(default=default)
        replace_index(models, before.with_default(default))


def replace_index(models: Path, index: PairIndex) -> None:
    """Write `models/index.json` whole, or leave it as it is; to be called inside `editing`."""
    if index.default not in pair_folders(models):
        raise_not_found(models, index.default)
    value: dict[str, Any] = {"default": index.default, "pairs": pair_folders(models)}
    if index.history:
        value["history"] = [{"default": entry.default, "until": entry.until} for entry in index.history]
    try:
        write_json_atomic(models / INDEX_FILE, value)
    except OSError as error:
        raise ConfigError(f"cannot write {models / INDEX_FILE}: {error.strerror}") from error


@contextmanager
def editing(models: Path) -> Iterator[None]:
    """Hold off others who change the index between reading and writing it; a killed holder lets go."""
    if not models.is_dir():
        raise PairNotFoundError(f"{models} is no folder of pairs")
    folder = os.open(models, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def read_json(path: Path) -> Any:
    """A JSON file's value; `PairInvalidError`, without the path, if it is not readable JSON."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise PairInvalidError(f"is not readable JSON: {error}") from error


def raise_not_found(models: Path, reference: str) -> NoReturn:
    raise PairNotFoundError(f"no pair {reference[:100]!r} in {models}; available: {_available(models)}")


def _available(models: Path) -> str:
    return ", ".join(pair_folders(models)) or "none"


def _promoted_last(models: Path, versions: Sequence[str]) -> str | None:
    if not (models / INDEX_FILE).is_file():
        return None
    index = read_index(models)
    defaults = (index.default, *(entry.default for entry in reversed(index.history)))
    return next((folder for folder in defaults if folder in versions), None)


def _raise_ambiguous(name: str, versions: Sequence[str]) -> NoReturn:
    raise PairNotFoundError(
        f"pair {name} is there in several versions, none of which was ever promoted; name one: {', '.join(versions)}"
    )
