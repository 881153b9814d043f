"""Run what is missing of a study, one experiment after the other, on this machine.

Any number of processes may sweep the same study at once, on one machine or on several that share the folder: each
experiment is held by one of them. A process that is killed leaves its experiment to the next, which continues from
the last checkpoint.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from serving.errors import ConfigError, PipeprobeError
from training.loop import LoopOptions
from training.study.experiment import perform
from training.study.plan import Experiment, start_of
from training.study.study_folder import Study, claimed

Say = Callable[[str], None]
# Of one experiment in one sweep; "elsewhere" is what another process has finished meanwhile.
State = Literal["finished", "elsewhere", "held", "failed", "left"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of one experiment."""

    state: State
    message: str

    @property
    def line(self) -> str:
        """What to say of it."""
        return f"failed: {self.message}" if self.state == "failed" else self.message


LEFT = Report(state="left", message="left for want of time")
_HINDRANCES: Mapping[State, str] = {
    "held": "is being run by another process",
    "failed": "failed",
    "left": "was left for want of time",
}


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """What one call did: ids finished, held by another process, failed with their messages, left for want of time."""

    finished: tuple[str, ...]
    held: tuple[str, ...]
    failed: dict[str, str]
    left: tuple[str, ...]

    @staticmethod
    def of(reports: Mapping[str, Report]) -> SweepOutcome:
        """Sum up reports by id."""

        def ids(state: State) -> tuple[str, ...]:
            return tuple(name for name, report in reports.items() if report.state == state)

        failed = {name: reports[name].message for name in ids("failed")}
        return SweepOutcome(finished=ids("finished"), held=ids("held"), failed=failed, left=ids("left"))


def run_missing(
    study: Study,
    estimates: Mapping[str, float],
    *,
    options: LoopOptions,
    max_minutes: float | None,
    command: str,
    say: Say,
) -> SweepOutcome:
    """Run the planned experiments that have no result, in their order.

    Args:
        estimates: seconds by id; with `max_minutes`, an experiment that would not end in time is not begun.
        say: takes a line before and after each experiment.
    """
    started = time.monotonic()
    missing = missing_experiments(study)
    reports: dict[str, Report] = {}
    for number, experiment in enumerate(missing, start=1):
        remaining_s = None if max_minutes is None else max_minutes * 60 - (time.monotonic() - started)
        if (hindered := hindrance(study, experiment, reports)) is not None:
            reports[experiment.id] = hindered
        elif remaining_s is not None and estimates[experiment.id] > remaining_s:
            reports[experiment.id] = LEFT
        else:
            say(f"[{number}/{len(missing)}] {experiment.id}: about {_duration(estimates[experiment.id])}")
            report = reports[experiment.id] = attempt(study, experiment, options=options, command=command)
            say(f"    {report.line}")
    return SweepOutcome.of(reports)


def missing_experiments(study: Study) -> list[Experiment]:
    """Those of the planned experiments that were asked for and have no result, in their order.

    Raises:
        ConfigError: a pattern of `study.only` matches no experiment.
    """
    names = [experiment.id for experiment in study.planned]
    for pattern in study.only:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"--only {pattern} matches no experiment of the study; they are called like {names[0]}")
    return [each for each in study.planned if not study.is_done(each) and study.is_asked_for(each)]


def hindrance(study: Study, experiment: Experiment, reports: Mapping[str, Report]) -> Report | None:
    """What becomes of a fine-tuning that has nothing to start from, by what became of its start; None for others."""
    start = start_of(experiment)
    if experiment.kind != "finetuned" or study.is_done(start):
        return None
    if not study.is_asked_for(start):
        return Report(state="left", message=f"{start.id}, which it starts from, has no result and was not asked for")
    state = reports[start.id].state
    if state not in _HINDRANCES:
        # Reported by another machine, whose file system is a little ahead of this one's.
        return None
    return Report(state=state, message=f"{start.id}, which it starts from, {_HINDRANCES[state]}")


def attempt(study: Study, experiment: Experiment, *, options: LoopOptions, command: str) -> Report:
    """Run an experiment, unless another process holds it or has finished it; a failure is reported, not raised."""
    with claimed(study.folder, experiment) as mine:
        if not mine:
            return Report(state="held", message="another process works on it")
        if study.is_done(experiment):
            return Report(state="elsewhere", message="another process has finished it")
        try:
            result = run_one(study, experiment, options=options, command=command)
        except PipeprobeError as error:
            return Report(state="failed", message=str(error))
        except Exception as error:
            # Nobody foresaw it: whoever looks into it needs more than its message.
            _log.exception("%s failed", experiment.id)
            return Report(state="failed", message=f"{type(error).__name__}: {error}")
    return Report(state="finished", message=_describe(result))


def run_one(study: Study, experiment: Experiment, *, options: LoopOptions, command: str) -> dict[str, Any]:
    """Carry out one experiment that this process has claimed."""
    return perform(
        experiment, study.settings, study.data, study.folder,
        initial=study.initial, options=options, command=command,
    )  # fmt: skip


def _describe(result: Mapping[str, Any]) -> str:
    took = _duration(result["wall_time_s"])
    if "val_natural" not in result["evaluations"]:
        return f"{result['status']} after {took}"
    return f"{result['status']} after {took}: AUROC on val {result['evaluations']['val_natural']['auroc']:.3f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
