"""Export of the new pair by the comparison's verdict, and its promotion to the default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from serving.errors import PairError
from serving.pairs.manifest import VariantName
from serving.pairs.pair import INDEX_FILE, MANIFEST_FILE, load_pair, pair_folders
from serving.pairs.pair_index import new_folder, read_index, stated_version
from serving.pairs.promotion import promote as promote_verified
from training.data.pack import Pack
from training.export import ExportConfig, export_pair
from training.probe import FittedProbe, IndivisibleError, load_probe

DRAWS = 20
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Release:
    """What to call the exported pair, where it goes, and in which variants.

    `name` is taken as it is if `is_fixed`; else a number is put behind it where it is taken.
    """

    models: Path
    name: str
    is_fixed: bool
    version: str
    variants: tuple[VariantName, ...]
    seed: int


def free_name(models: Path, base: str) -> str:
    """`base`, or with the first number behind it that makes it the name of no folder under `models`."""
    number = 2
    name = base
    while (models / name).exists():
        name, number = f"{base}-{number}", number + 1
    return name


def export_new(release: Release, run: Path, pack: Pack, *, command: str) -> Path:
    """Export `run`, unless a killed call has just done it; returns the pair's folder.

    Raises:
        ExportRefusedError: a variant failed the gate; nothing was written.
        ConfigError: another pair has that name and version.
    """
    probe = load_probe(run)
    for folder in pair_folders(release.models):
        name = folder.partition("@")[0]
        named = name == release.name if release.is_fixed else name.startswith(release.name)
        path = release.models / folder
        if named and stated_version(path) == release.version and is_ours(path, probe):
            return path
    if release.is_fixed:
        name = release.name
        new_folder(release.models, name, release.version)  # raises now, not after the export's long work
    else:
        name = free_name(release.models, release.name)

    def export(seed: int) -> Path:
        config = ExportConfig(name=name, version=release.version, variants=release.variants, seed=seed)
        return export_pair(run, pack=pack, out=release.models, config=config, command=command)

    return first_divisible(export, release.seed)


def is_ours(folder: Path, probe: FittedProbe) -> bool:
    """Whether the pair in `folder` is whole and was made from this very probe."""
    if not (folder / MANIFEST_FILE).is_file():
        return False
    try:
        manifest = load_pair(folder).manifest
    except PairError:
        return False
    return manifest.calibration == probe.calibration and manifest.operating_points == probe.operating_points


def first_divisible(work: Callable[[int], T], seed: int) -> T:
    """`work(seed)`, or with the next seeds: with few inspections a draw can leave a part without one of the labels.

    Raises:
        IndivisibleError: no draw of `DRAWS` divides them.
    """
    for attempt in range(DRAWS - 1):
        try:
            return work(seed + attempt)
        except IndivisibleError:
            continue
    return work(seed + DRAWS - 1)


def promote(models: Path, reference: str) -> str:
    """Make NAME or NAME@VERSION the default pair of `models`, verified first; returns the folder of the one before."""
    before = read_index(models).default if (models / INDEX_FILE).is_file() else ""
    promote_verified(models, reference)
    return before
