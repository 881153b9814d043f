"""What experiments share where encoders are pretrained on the whole split: the pretraining, and features of all frames.

STUDY/pretrained/<method>-<encoder>-s<seed>/            a run folder (`training.runs`); none for untrained encoders
STUDY/pretrained/<method>-<encoder>-s<seed>/features/   of every pack, until the last that needs them has its result
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.durable import write_bytes_atomic
from serving.file_lock import locked
from training import runs
from training.features import FEATURES
from training.study.plan import LOCK, Experiment, StudySettings, experiments

SHARED = "pretrained"


def shared_folder(study: Path, experiment: Experiment) -> Path:
    """The folder of an experiment's encoder, whatever the proportion of defects."""
    return study / SHARED / f"{experiment.method}-{experiment.encoder}-s{experiment.seed}"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process works in the folder, and keep others out."""
    with locked(folder / LOCK, wait=True):
        yield


def copy_run(source: Path, folder: Path) -> None:
    """Give an experiment its own copy of the run that it shares."""
    for name in (runs.CONFIG, runs.METRICS, runs.ENCODER, runs.RUN):
        write_bytes_atomic(folder / name, (source / name).read_bytes())


def forget_features(study: Path, experiment: Experiment, settings: StudySettings, result: str) -> None:
    """Drop the shared features once every experiment that reads them has its file `result`: they take gigabytes."""
    home = shared_folder(study, experiment)
    sharing = (each for each in experiments(settings) if shared_folder(study, each) == home)
    if all((study / each.id / result).is_file() for each in sharing):
        shutil.rmtree(home / FEATURES, ignore_errors=True)
