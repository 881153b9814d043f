"""Run what is missing of a study over a Ray cluster: one task an experiment, several to a GPU if they fit.

All machines must see the study and its packs under the same paths. Tasks claim their experiment as any sweep does, so
that a cluster may share a study with sweeps beside it. A worker that dies is started again by Ray and continues its
experiment from the last checkpoint.

Ray is imported here alone, and only when it is asked for.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from serving.errors import ConfigError
from training.loop import LoopOptions
from training.study.plan import Experiment, start_of
from training.study.study_folder import Study, reopen_study
from training.study.sweep import LEFT, Report, Say, SweepOutcome, attempt, hindrance, missing_experiments

# Of one experiment, after its worker died for whatever reason: its checkpoint makes every one of them shorter.
RETRIES = 3
# Nothing but settings and a line of text passes between processes; Ray's least is 75 MiB.
OBJECT_STORE_BYTES = 100 * 2**20
# For a machine of a cluster to take a connection.
CONNECT_S = 10


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where to run, and what one experiment gets there.

    Attributes:
        address: of a running cluster, as Ray understands it; None starts Ray on this machine for the time of a sweep.
        gpus_per_run: share of a GPU; 0 runs on the CPU.
        cpus_per_run: cores, and threads of torch.
    """

    address: str | None = None
    gpus_per_run: float = 0.0
    cpus_per_run: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.gpus_per_run <= 1:
            raise ConfigError(f"an experiment runs on one GPU or a share of it, in [0, 1], got {self.gpus_per_run}")
        if self.cpus_per_run < 1:
            raise ConfigError(f"an experiment needs a core at least, got {self.cpus_per_run}")

    @property
    def device(self) -> str:
        """For torch in a worker, which sees no other GPU than its own."""
        return "cuda" if self.gpus_per_run else "cpu"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker must know of one experiment. `deadline` is in seconds since the epoch."""

    folder: Path
    data_folder: Path
    experiment: Experiment
    options: LoopOptions
    threads: int
    estimate_s: float
    deadline: float | None
    command: str


def run_missing_on_ray(
    study: Study,
    estimates: Mapping[str, float],
    *,
    data_folder: Path,
    cluster: Cluster,
    options: LoopOptions,
    max_minutes: float | None,
    command: str,
    say: Say,
) -> SweepOutcome:
    """Run the planned experiments that have no result, as many at once as the cluster has room for.

    Args:
        estimates: seconds by id; with `max_minutes`, an experiment that would not end in time is not begun.
        data_folder: holds the study's packs.
        options: for all of them, but for the device, which is the cluster's.
        say: takes a line after each experiment.

    Raises:
        ConfigError: Ray is not installed, there is no cluster at the address, or this machine has no room for a run.
    """
    ray = import_ray()
    deadline = None if max_minutes is None else time.time() + max_minutes * 60
    tasks = {
        experiment.id: Task(
            folder=study.folder.resolve(),
            data_folder=data_folder.resolve(),
            experiment=experiment,
            options=replace(options, device=cluster.device),
            threads=cluster.cpus_per_run,
            estimate_s=estimates[experiment.id],
            deadline=deadline,
            command=command,
        )
        for experiment in missing_experiments(study)
    }
    with _connected(ray, cluster):
        return SweepOutcome.of(_Dispatch(ray, study, cluster, tasks, say).run())


def import_ray() -> ModuleType:
    """Ray, or a `ConfigError` that says how to install it."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"Ray cannot be imported ({error}); install it: pip install 'pipeprobe[cluster]'") from error
    module: ModuleType = ray
    return module


def carry_out(task: Task) -> Report:
    """One experiment, in a worker."""
    if task.deadline is not None and time.time() + task.estimate_s > task.deadline:
        return LEFT
    torch.set_num_threads(task.threads)
    study = _opened(task.folder, task.data_folder)
    return attempt(study, task.experiment, options=task.options, command=task.command)


@lru_cache(maxsize=1)
def _opened(folder: Path, data_folder: Path) -> Study:
    """Once for each worker: it reads all packs to compare their checksums."""
    return reopen_study(folder, data_folder)


class _Dispatch:
    """Hands tasks to Ray; a fine-tuning only when what it starts from is there."""

    def __init__(self, ray: ModuleType, study: Study, cluster: Cluster, tasks: Mapping[str, Task], say: Say) -> None:
        self.ray, self.study, self.tasks, self.say = ray, study, tasks, say
        self.remote = ray.remote(
            num_cpus=cluster.cpus_per_run, num_gpus=cluster.gpus_per_run, max_retries=RETRIES, retry_exceptions=False
        )(carry_out)
        self.pending: dict[Any, str] = {}
        self.reports: dict[str, Report] = {}
        # Fine-tunings by the id of what they start from, as far as that is still to be run.
        self.waiting: dict[str, list[str]] = {}

    def run(self) -> dict[str, Report]:
        """All tasks; returns reports by id."""
        for name, task in self.tasks.items():
            start = start_of(task.experiment).id
            if task.experiment.kind == "finetuned" and start in self.tasks:
                self.waiting.setdefault(start, []).append(name)
            else:
                self._submit_unless_hindered(name)
        while self.pending:
            (ready,), _ = self.ray.wait(list(self.pending), num_returns=1)
            done = self.pending.pop(ready)
            self._note(done, self._result(ready))
            for name in self.waiting.pop(done, ()):
                self._submit_unless_hindered(name)
        return self.reports

    def _submit_unless_hindered(self, name: str) -> None:
        hindered = hindrance(self.study, self.tasks[name].experiment, self.reports)
        if hindered is None:
            self.pending[self.remote.remote(self.tasks[name])] = name
        else:
            self._note(name, hindered)

    def _result(self, ready: Any) -> Report:
        try:
            report: Report = self.ray.get(ready)
        except self.ray.exceptions.RayTaskError as error:
            # Before the experiment began: its study cannot be opened where the worker runs, say.
            return Report(state="failed", message=f"{type(error.cause).__name__}: {error.cause}")
        except self.ray.exceptions.RayError as error:
            summary = str(error).partition("\n")[0]
            return Report(state="failed", message=f"its worker died {RETRIES + 1} times; Ray says: {summary}")
        return report

    def _note(self, name: str, report: Report) -> None:
        self.reports[name] = report
        self.say(f"[{len(self.reports)}/{len(self.tasks)}] {name}: {report.line}")


@contextmanager
def _connected(ray: ModuleType, cluster: Cluster) -> Iterator[None]:
    """Ray, started here or joined, until the end of the block."""
    # Workers' own output would be mixed with the progress; what matters of it is in the run folders.
    if cluster.address is None:
        # A cluster that was started for this sweep reports to nobody.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    else:
        try:
            _check_listening(cluster.address)
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"no Ray cluster can be reached at {cluster.address} ({error}): start one with `ray start --head`, or "
                "leave --address out to use this machine alone"
            ) from error
    try:
        _check_room(ray, cluster)
        yield
    finally:
        ray.shutdown()


def _check_listening(address: str) -> None:
    """Raise `OSError` if nothing answers at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def _check_room(ray: ModuleType, cluster: Cluster) -> None:
    """Refuse what would wait for ever on this machine; a cluster elsewhere may still grow."""
    found = ray.cluster_resources()
    cpus, gpus = found.get("CPU", 0), found.get("GPU", 0)
    if cluster.address is None and (cluster.cpus_per_run > cpus or cluster.gpus_per_run > gpus):
        raise ConfigError(
            f"an experiment asks for {cluster.cpus_per_run} cores and {cluster.gpus_per_run:g} GPUs, and Ray finds "
            f"{cpus:g} and {gpus:g} here: ask for less, or name a cluster with --address"
        )
