"""Run what is missing of a study over a Ray cluster: one task an experiment, several to a GPU if they fit.

All machines must see the study and its packs under the same paths. Tasks claim their experiment as any sweep does, so
that a cluster may share a study with sweeps beside it. The experiment of a worker that dies is continued by another
one, from its last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from serving.ray_cluster import Calls, Cluster, WorkerLostError, connected
from training.loop import LoopOptions
from training.study.plan import Experiment, start_of
from training.study.study_folder import Study, reopen_study
from training.study.sweep import LEFT, Report, Say, SweepOutcome, attempt, hindrance, missing_experiments


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
    deadline = None if max_minutes is None else time.time() + max_minutes * 60
    tasks = {
        experiment.id: Task(
            folder=study.folder.resolve(),
            data_folder=data_folder.resolve(),
            experiment=experiment,
            options=replace(options, device=cluster.device),
            threads=cluster.cpus,
            estimate_s=estimates[experiment.id],
            deadline=deadline,
            command=command,
        )
        for experiment in missing_experiments(study)
    }
    with connected(cluster) as ray:
        return SweepOutcome.of(_Dispatch(Calls(ray, cluster, carry_out), study, tasks, say).run())


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

    def __init__(self, calls: Calls[Task, Report], study: Study, tasks: Mapping[str, Task], say: Say) -> None:
        self.calls, self.study, self.tasks, self.say = calls, study, tasks, say
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
        while self.calls:
            done, ended = self.calls.next_ended()
            self._note(done, _report(ended) if isinstance(ended, Exception) else ended)
            for name in self.waiting.pop(done, ()):
                self._submit_unless_hindered(name)
        return self.reports

    def _submit_unless_hindered(self, name: str) -> None:
        hindered = hindrance(self.study, self.tasks[name].experiment, self.reports)
        if hindered is None:
            self.calls.add(name, self.tasks[name])
        else:
            self._note(name, hindered)

    def _note(self, name: str, report: Report) -> None:
        self.reports[name] = report
        self.say(f"[{len(self.reports)}/{len(self.tasks)}] {name}: {report.line}")


def _report(error: Exception) -> Report:
    """Of an experiment that was not begun or not ended: its study cannot be opened where the worker runs, say."""
    lost = isinstance(error, WorkerLostError)
    return Report(state="failed", message=str(error) if lost else f"{type(error).__name__}: {error}")
