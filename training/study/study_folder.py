"""The folder of a study: its settings and data, its initial encoders, and which experiments are done.

STUDY/study.json             settings, packs, planned experiments; written once, before the first experiment
STUDY/initial/<encoder>/     copies of the encoders that the study starts from
STUDY/<id>/                  one experiment
STUDY/<id>/.lock             held by the process that works on it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from serving.durable import write_json_atomic
from serving.errors import ConfigError, DataError
from serving.file_lock import locked
from training import runs
from training.backbones import Encoder
from training.config import Precision
from training.data.pack import open_pack
from training.features import check_size, encoder_digest
from training.probe import describe_pack
from training.study.experiment import RESULT, StudyData
from training.study.plan import LOCK, Experiment, StudySettings, experiments

STUDY = "study.json"
INITIAL = "initial"
SCHEMA_VERSION = 1
SPLITS = ("train", "val", "test")
NEEDED = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class Study:
    """An opened study folder; `initial` by encoder name. Only experiments that match one of `only` are run, if any."""

    folder: Path
    settings: StudySettings
    data: StudyData
    initial: Mapping[str, Encoder]
    only: tuple[str, ...] = ()

    @property
    def planned(self) -> list[Experiment]:
        """All experiments, in their order."""
        return experiments(self.settings)

    def is_asked_for(self, experiment: Experiment) -> bool:
        """Whether it matches one of `only`."""
        return not self.only or any(fnmatchcase(experiment.id, pattern) for pattern in self.only)

    def is_done(self, experiment: Experiment) -> bool:
        """Whether its result is there."""
        return (self.folder / experiment.id / RESULT).is_file()


def open_study(folder: Path, data_folder: Path, settings: StudySettings, initial: Mapping[str, Encoder]) -> Study:
    """Start a study, or open it again.

    Args:
        folder: the study's.
        data_folder: holds the packs train, val and, where there is one, test.
        settings: must be those that the study was started with, if it was.
        initial: the encoders that `settings.initial` names.

    Raises:
        ConfigError: the study was started with other settings or other packs.
        DataError: a pack is missing, sizes differ, or an encoder does not fit them.
    """
    data = open_data(data_folder)
    for name, encoder in initial.items():
        check_size(encoder, data.train)
        if dict(settings.initial).get(name) != encoder_digest(encoder):
            raise ConfigError(f"the settings name another initial {name} than the one given")
    asked = {
        "schema_version": SCHEMA_VERSION,
        "settings": settings.to_json(),
        "image_size": data.train.size,
        "data": {split: describe_pack(pack) for split, pack in data.packs.items()},
        "planned": [experiment.id for experiment in experiments(settings)],
    }
    path = folder / STUDY
    if path.is_file():
        _refuse_other(folder, runs.read_json(path), asked)
    else:
        for name, encoder in initial.items():
            config = {"method": "initial", "encoder": name, "image_size": encoder.image_size}
            write_json_atomic(folder / INITIAL / name / runs.CONFIG, config)
            runs.save_encoder(folder / INITIAL / name, encoder)
        write_json_atomic(path, asked)
    return Study(folder=folder, settings=settings, data=data, initial=initial)


def reopen_study(folder: Path, data_folder: Path) -> Study:
    """Open a study that was started, with the settings it has: what a worker of a cluster does."""
    settings = StudySettings.from_json(runs.read_json(folder / STUDY)["settings"])
    initial = {name: runs.load_encoder(folder / INITIAL / name)[0] for name, _ in settings.initial}
    return open_study(folder, data_folder, settings, initial)


def precision_of(folder: Path) -> Precision | None:
    """What a study that was started trains in, on whatever machine it goes on; None where none was started."""
    path = folder / STUDY
    precision: Precision | None = runs.read_json(path)["settings"].get("precision") if path.is_file() else None
    return precision


def open_data(folder: Path) -> StudyData:
    """The packs FOLDER/train, FOLDER/val and, where there is one, FOLDER/test.

    Raises:
        DataError: one is missing or damaged, two are the same, or their frame sizes differ.
    """
    missing = [split for split in NEEDED if not (folder / split).is_dir()]
    if missing:
        raise DataError(
            f"{folder} must hold the packs {' and '.join(NEEDED)}, and lacks {', '.join(missing)}: make them with "
            f"`pipeprobe-train pack DATA --split {missing[0]} --size S --out {folder / missing[0]}`"
        )
    packs = {split: open_pack(folder / split) for split in SPLITS if (folder / split).is_dir()}
    sizes = [pack.size for pack in packs.values()]
    if len(set(sizes)) > 1:
        raise DataError(f"the packs of {folder} have frames of {', '.join(map(str, sizes))} px: pack alike")
    if len({pack.digest for pack in packs.values()}) < len(packs):
        raise DataError(f"two packs of {folder} hold the same frames: pack the splits apart")
    return StudyData(**packs)


@contextmanager
def claimed(folder: Path, experiment: Experiment) -> Iterator[bool]:
    """Hold the experiment for this process; yields False where another one has it."""
    with locked(folder / experiment.id / LOCK, wait=False) as mine:
        yield mine


def _refuse_other(folder: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    for part in ("settings", "data"):
        differing = [key for key in asked[part] if there.get(part, {}).get(key) != asked[part][key]]
        if differing:
            facts = "; ".join(
                f"{key}: {there.get(part, {}).get(key)} there, {asked[part][key]} asked" for key in differing
            )
            raise ConfigError(
                f"{folder} is a study with other {part} ({facts}): give the options that it was started with, or name "
                "another folder"
            )
