"""Run what is missing of a study, one experiment after the other, on this machine.

Any number of processes may sweep the same study at once, on one machine or on several that share the folder: each
experiment is held by one of them. A process that is killed leaves its experiment to the next, which continues from
the last checkpoint.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from serving.errors import PipeprobeError
from training.loop import LoopOptions
from training.study.experiment import perform
from training.study.plan import Experiment, start_of
from training.study.study_folder import Study, claimed

Say = Callable[[str], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """What one call did: ids finished, held by another process, failed with their messages, left for want of time."""

    finished: tuple[str, ...]
    held: tuple[str, ...]
    failed: dict[str, str]
    left: tuple[str, ...]


def run_missing(
    study: Study,
    estimates: dict[str, float],
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
    finished: list[str] = []
    held: list[str] = []
    left: list[str] = []
    failed: dict[str, str] = {}
    missing = [experiment for experiment in study.planned if not study.is_done(experiment)]
    for number, experiment in enumerate(missing, start=1):
        if experiment.kind == "finetuned" and not study.is_done(start := start_of(experiment)):
            # In the plan it comes after its start, which shared its fate with one of the lists.
            if start.id in failed:
                failed[experiment.id] = f"{start.id}, which it starts from, failed"
            else:
                (left if start.id in left else held).append(experiment.id)
            continue
        remaining_s = None if max_minutes is None else max_minutes * 60 - (time.monotonic() - started)
        if remaining_s is not None and estimates[experiment.id] > remaining_s:
            left.append(experiment.id)
            continue
        say(f"[{number}/{len(missing)}] {experiment.id}: about {_duration(estimates[experiment.id])}")
        with claimed(study.folder, experiment) as mine:
            if not mine:
                held.append(experiment.id)
                say("    another process works on it")
                continue
            if study.is_done(experiment):
                continue
            try:
                say(f"    {_sum_up(run_one(study, experiment, options=options, command=command))}")
                finished.append(experiment.id)
            except Exception as error:
                failed[experiment.id] = describe_failure(experiment, error)
                say(f"    failed: {failed[experiment.id]}")
    return SweepOutcome(finished=tuple(finished), held=tuple(held), failed=failed, left=tuple(left))


def run_one(study: Study, experiment: Experiment, *, options: LoopOptions, command: str) -> dict[str, object]:
    """Carry out one experiment that this process has claimed."""
    return perform(
        experiment, study.settings, study.data, study.folder,
        initial=study.initial, options=options, command=command,
    )  # fmt: skip


def describe_failure(experiment: Experiment, error: Exception) -> str:
    """What to say of a failure; of one that nobody foresaw, the log gets the traceback."""
    if isinstance(error, PipeprobeError):
        return str(error)
    _log.error("%s failed", experiment.id, exc_info=error)
    return f"{type(error).__name__}: {error}"


def _sum_up(result: dict[str, object]) -> str:
    evaluations: dict[str, dict[str, float]] = result["evaluations"]  # type: ignore[assignment] # as perform makes it
    took = _duration(float(str(result["wall_time_s"])))
    if "val_natural" not in evaluations:
        return f"{result['status']} after {took}"
    found = evaluations["val_natural"]
    return f"{result['status']} after {took}: AUROC on val {found['auroc']:.3f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
