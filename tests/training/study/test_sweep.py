"""Sweeps: every experiment once, whatever is killed, held, broken or out of time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.tiny_study import (
    OPTIONS,
    memory_data,
    memory_pack,
    register_tiny,
    settings,
    simclr_tiny,
    without_clocks,
    write_packs,
)

from serving.errors import ConfigError, PipeprobeError
from training.recipes import RECIPES
from training.study import sweep as module
from training.study.experiment import RESULT
from training.study.plan import StudySettings, start_of
from training.study.study_folder import Study, claimed
from training.study.sweep import SweepOutcome, run_missing

# The folder of the studies, and what the program says of its processes.
Report = tuple[Path, dict[str, Any]]

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch.setitem)


@dataclass
class Swept:
    """What a sweep did, and what it said meanwhile."""

    outcome: SweepOutcome
    said: list[str]


def tiny_study(folder: Path, plan: StudySettings | None = None) -> Study:
    return Study(folder=folder, settings=plan or settings(), data=memory_data(), initial={})


def sweep(study: Study, *, seconds: dict[str, float] | None = None, max_minutes: float | None = None) -> Swept:
    said: list[str] = []
    estimates = {experiment.id: 1.0 for experiment in study.planned} | (seconds or {})
    outcome = run_missing(study, estimates, options=OPTIONS, max_minutes=max_minutes, command="typed", say=said.append)
    return Swept(outcome, said)


def ids(study: Study) -> list[str]:
    return [experiment.id for experiment in study.planned]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of the experiments: when it was written, and what it holds."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def cheap(monkeypatch: pytest.MonkeyPatch, failing: dict[str, Exception] | None = None) -> list[str]:
    """Experiments that only write a result; the list grows by the id of each that is begun."""
    begun: list[str] = []

    def perform(experiment: Any, _settings: Any, _data: Any, study: Path, **_options: Any) -> dict[str, Any]:
        begun.append(experiment.id)
        if experiment.id in (failing or {}):
            raise failing[experiment.id]
        result = {"status": "finished", "wall_time_s": 100.0, "evaluations": {"val_natural": {"auroc": 0.75}}}
        (study / experiment.id / RESULT).write_text(json.dumps(result))
        return result

    monkeypatch.setattr(module, "perform", perform)
    return begun


# ---- once -------------------------------------------------------------------------------------------------------


def test_what_is_finished_is_never_run_twice(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    first = sweep(study)
    assert first.outcome == SweepOutcome(finished=tuple(ids(study)), held=(), failed={}, left=())
    results = [json.loads((tmp_path / name / RESULT).read_text()) for name in ids(study)]
    assert [result["id"] for result in results] == ids(study)
    before = contents(tmp_path)
    second = sweep(study)
    assert second.outcome == SweepOutcome(finished=(), held=(), failed={}, left=())
    assert second.said == []
    assert contents(tmp_path) == before


def test_a_longer_plan_adds_to_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = cheap(monkeypatch)
    sweep(tiny_study(tmp_path, settings(seeds=1)))
    before = list(begun)
    sweep(tiny_study(tmp_path, settings(seeds=2)))
    assert begun[len(before) :] == [name.replace("-s0", "-s1") for name in before]


def test_progress_is_said_before_and_after_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)
    study = tiny_study(tmp_path)
    said = sweep(study, seconds={ids(study)[1]: 600.0, ids(study)[2]: 9000.0}).said
    assert said[:6] == [
        "[1/4] random-tiny-p15-s0: about 1 s",
        "    finished after 2 min: AUROC on val 0.750",
        "[2/4] simclr-tiny-p15-s0: about 10 min",
        "    finished after 2 min: AUROC on val 0.750",
        "[3/4] supervised-tiny-p15-s0: about 2.5 h",
        "    finished after 2 min: AUROC on val 0.750",
    ]


def test_only_those_asked_for_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = cheap(monkeypatch)
    study = tiny_study(tmp_path, settings(seeds=2))
    swept = sweep(replace(study, only=("simclr-*-s1", "random-*")))
    assert begun == ["random-tiny-p15-s0", "random-tiny-p15-s1", "simclr-tiny-p15-s1"]
    assert swept.outcome == SweepOutcome(finished=tuple(begun), held=(), failed={}, left=())
    with pytest.raises(ConfigError, match=r"--only dino-\* matches no experiment .* like random-tiny-p15-s0"):
        sweep(replace(study, only=("simclr-*", "dino-*")))


def test_a_fine_tuning_is_left_whose_start_was_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = cheap(monkeypatch)
    study = tiny_study(tmp_path)
    tuned = replace(study, only=("finetuned_*",))
    swept = sweep(tuned)
    assert (begun, swept.outcome.left) == ([], ("finetuned_simclr-tiny-p15-s0",))
    sweep(replace(study, only=("simclr-*",)))
    assert sweep(tuned).outcome.finished == ("finetuned_simclr-tiny-p15-s0",)


# ---- others at work ---------------------------------------------------------------------------------------------


def test_what_another_process_holds_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = cheap(monkeypatch)
    study = tiny_study(tmp_path)
    with claimed(tmp_path, study.planned[0]):
        swept = sweep(study)
    assert swept.outcome.held == ("random-tiny-p15-s0",)
    assert begun == ids(study)[1:]
    assert "    another process works on it" in swept.said
    assert sweep(study).outcome.finished == ("random-tiny-p15-s0",)


def test_a_fine_tuning_waits_for_the_process_that_trains_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = cheap(monkeypatch)
    study = tiny_study(tmp_path)
    tuned = study.planned[-1]
    with claimed(tmp_path, start_of(tuned)):
        outcome = sweep(study).outcome
    assert outcome.held == (start_of(tuned).id, tuned.id)
    assert (outcome.failed, outcome.left) == ({}, ())
    assert tuned.id not in begun
    assert sweep(study).outcome.finished == (start_of(tuned).id, tuned.id)


def test_a_fine_tuning_is_begun_when_another_process_has_finished_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = cheap(monkeypatch)
    study = tiny_study(tmp_path)
    start = start_of(study.planned[-1])
    held = claimed(tmp_path, start)
    perform = module.perform

    def finish_elsewhere(experiment: Any, *arguments: Any, **options: Any) -> Any:
        # The supervised run comes between the start and the fine-tuning.
        if experiment.kind == "supervised":
            (tmp_path / start.id / RESULT).write_text("{}")
            held.__exit__(None, None, None)
        return perform(experiment, *arguments, **options)

    monkeypatch.setattr(module, "perform", finish_elsewhere)
    held.__enter__()
    outcome = sweep(study).outcome
    assert outcome.held == (start.id,)
    assert outcome.finished[-1] == begun[-1] == study.planned[-1].id


def test_what_another_process_finished_meanwhile_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = cheap(monkeypatch)
    study = tiny_study(tmp_path)
    perform = module.perform

    def quicker_elsewhere(experiment: Any, *arguments: Any, **options: Any) -> Any:
        (tmp_path / ids(study)[1]).mkdir()
        (tmp_path / ids(study)[1] / RESULT).write_text("{}")
        monkeypatch.setattr(module, "perform", perform)
        return perform(experiment, *arguments, **options)

    monkeypatch.setattr(module, "perform", quicker_elsewhere)
    outcome = sweep(study).outcome
    assert begun == [ids(study)[0], *ids(study)[2:]]
    assert outcome.finished == tuple(begun)


# ---- failures ---------------------------------------------------------------------------------------------------


def test_one_broken_experiment_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    random, simclr, supervised, tuned = ids(tiny_study(tmp_path))
    failing = {random: PipeprobeError("the disk is full"), supervised: ZeroDivisionError("division by zero")}
    begun = cheap(monkeypatch, failing)
    swept = sweep(tiny_study(tmp_path))
    assert begun == [random, simclr, supervised, tuned]
    assert swept.outcome.finished == (simclr, tuned)
    assert swept.outcome.failed == {random: "the disk is full", supervised: "ZeroDivisionError: division by zero"}
    assert "    failed: the disk is full" in swept.said
    # Nobody foresaw the second: the log says where it came from, and of the first nothing.
    assert [record.getMessage() for record in caplog.records] == [f"{supervised} failed"]
    assert caplog.records[0].exc_info is not None
    failing.clear()
    assert sweep(tiny_study(tmp_path)).outcome.finished == (random, supervised)


def test_a_fine_tuning_fails_with_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study(tmp_path)
    start, tuned = study.planned[1].id, study.planned[3].id
    begun = cheap(monkeypatch, {start: PipeprobeError("broken")})
    outcome = sweep(study).outcome
    assert outcome.failed == {start: "broken", tuned: f"{start}, which it starts from, failed"}
    assert tuned not in begun


def test_too_few_defects_for_a_subset_fail_that_subset_alone(tmp_path: Path) -> None:
    data = replace(memory_data(), train=memory_pack("train", n=72))
    plan = settings(proportions=(0.01, 0.15), baselines=("random",))
    outcome = sweep(Study(folder=tmp_path, settings=plan, data=data, initial={})).outcome
    assert outcome.finished == ("random-tiny-p15-s0", "simclr-tiny-p15-s0")
    assert list(outcome.failed) == ["random-tiny-p1-s0", "simclr-tiny-p1-s0"]
    assert "too few for that proportion" in outcome.failed["simclr-tiny-p1-s0"]


def test_a_diverged_run_is_a_result_and_the_sweep_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absurd(**run: Any) -> Any:
        config = simclr_tiny(**run)
        return replace(config, optim=replace(config.optim, lr=1e20))

    monkeypatch.setitem(RECIPES, ("simclr", "tiny"), absurd)
    study = tiny_study(tmp_path, settings(baselines=("supervised",), methods=("simclr",)))
    swept = sweep(study)
    assert swept.outcome.finished == ("simclr-tiny-p15-s0", "supervised-tiny-p15-s0")
    assert json.loads((tmp_path / "simclr-tiny-p15-s0" / RESULT).read_text())["status"] == "diverged"
    assert any(line.startswith("    diverged after ") for line in swept.said)
    assert sweep(study).said == []


# ---- time -------------------------------------------------------------------------------------------------------


def test_nothing_is_begun_that_would_not_end_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = cheap(monkeypatch)
    study = tiny_study(tmp_path)
    random, simclr, supervised, tuned = ids(study)
    # A shorter one is still begun, but not a fine-tuning whose start was not.
    swept = sweep(study, seconds={simclr: 121.0, supervised: 119.0}, max_minutes=2)
    assert begun == [random, supervised]
    assert swept.outcome == SweepOutcome(finished=(random, supervised), held=(), failed={}, left=(simclr, tuned))
    assert sweep(study, max_minutes=2).outcome.finished == (simclr, tuned)


def test_the_time_that_has_passed_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = cheap(monkeypatch)
    study = tiny_study(tmp_path)
    clock = iter([0.0, 0.0, 50.0, 70.0, 130.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    outcome = sweep(study, seconds=dict.fromkeys(ids(study), 60.0), max_minutes=2).outcome
    assert begun == ids(study)[:2]
    assert outcome.left == tuple(ids(study)[2:])


# ---- kills and company: real processes ----------------------------------------------------------------------------

# One process that imports everything once and forks: a straight sweep; one that is killed time and again, at moments
# and at writes of files drawn at random; one that two processes share.
PROGRAM = """
import json, operator, os, random, signal, sys, time
from pathlib import Path
import torch
import training.commands.sweep
from support.tiny_study import OPTIONS, register_tiny, settings
from training.study.study_folder import open_study
from training.study.sweep import run_missing

packs, out, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
rng = random.Random(int(sys.argv[4]))
torch.set_num_threads(1)
register_tiny(operator.setitem)
PLAN = settings(seeds=2, epochs=2)

def sweep(name, die_at_write=None):
    if die_at_write is not None:
        original, left = Path.replace, [die_at_write]
        def dying(self, target):
            # Every file of ours gets its name last: before that it is not there, after that it is whole.
            left[0] -= 1
            if left[0] == 0 and rng.random() < 0.5:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(self, target)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        Path.replace = dying
    study = open_study(out / name, packs, PLAN, {})
    estimates = {experiment.id: 1.0 for experiment in study.planned}
    return run_missing(study, estimates, options=OPTIONS, max_minutes=None, command="typed", say=lambda line: None)

def fork(name, die_at_write=None, report=None):
    child = os.fork()
    if child:
        return child
    try:
        outcome = sweep(name, die_at_write)
        (out / f"{report or name}.json").write_text(json.dumps(vars(outcome)))
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)

def end(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

started = time.monotonic()
codes = [end(fork("straight"))]
took = time.monotonic() - started
killed = []
for number in range(kills):
    if number % 2:
        killed.append(end(fork("killed", die_at_write=rng.randint(1, 6))))
    else:
        child = fork("killed")
        time.sleep(rng.uniform(0.02, 0.2) * took)
        os.kill(child, signal.SIGKILL)
        killed.append(end(child))
codes.append(end(fork("killed")))
both = [fork("shared", report=f"shared{number}") for number in range(2)]
codes += [end(child) for child in both]
print(json.dumps({"codes": codes, "killed": killed, "imports": sorted({"ray"} & sys.modules.keys())}))
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("processes")
    packs = write_packs(folder / "packs", train=72, val=24, test=16)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, packs, folder, "8", "5"],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY / 'tests'}:{REPOSITORY}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert set(report["codes"]) == {0}, done.stderr
    return folder, report


def results(folder: Path) -> dict[str, Any]:
    return {path.parent.name: without_clocks(json.loads(path.read_text())) for path in folder.glob(f"*/{RESULT}")}


def test_a_sweep_that_was_killed_gives_what_a_straight_one_gives(processes: Report) -> None:
    folder, report = processes
    # Half of the kills at least came before the work was done.
    assert report["killed"].count(-9) >= 4
    straight = results(folder / "straight")
    assert set(straight) == {experiment.id for experiment in tiny_study(folder, settings(seeds=2, epochs=2)).planned}
    assert results(folder / "killed") == straight
    assert not list((folder / "killed").glob("*/.*.partial"))
    assert not list((folder / "killed").glob("*/checkpoint.pt"))


def test_ray_is_not_imported_before_it_is_asked_for(processes: Report) -> None:
    assert processes[1]["imports"] == []


def test_two_processes_share_a_study_and_do_nothing_twice(processes: Report) -> None:
    folder, _ = processes
    first, second = (json.loads((folder / f"shared{number}.json").read_text()) for number in range(2))
    assert set(first["finished"]).isdisjoint(second["finished"])
    assert min(len(first["finished"]), len(second["finished"])) >= 1
    assert first["failed"] == second["failed"] == {}
    shared, straight = results(folder / "shared"), results(folder / "straight")
    done = {*first["finished"], *second["finished"]}
    assert set(shared) == done
    assert shared == {name: straight[name] for name in done}
    # Whoever came last to what the other one held went on; nothing was left over by both.
    assert done == set(straight)
