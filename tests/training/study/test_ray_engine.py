"""Sweeps over Ray: the same experiments and results, whatever worker dies, and fine-tunings after their starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.ray_runs import holder_of, ray_environment, ray_folder, wait_until
from support.tiny_study import OPTIONS, register_tiny, settings, without_clocks, write_packs

from training import runs
from training.loop import LoopOptions
from training.study.experiment import RESULT
from training.study.plan import LOCK, StudySettings
from training.study.ray_engine import Task, carry_out
from training.study.study_folder import open_study
from training.study.sweep import LEFT, run_missing

REPOSITORY = Path(__file__).resolve().parents[3]

# A transformer on four patches a frame is quick; 36 normal frames are too few for one defect in a hundred.
PLAN = StudySettings(
    methods=("simclr",),
    encoders=("vit_tiny",),
    proportions=(0.01, 0.15),
    seeds=1,
    baselines=("random", "finetuned"),
    epochs=8,
    batch_size=16,
    optim="short",
    views="inspection",
    view_size=16,
    precision="fp32",
)
ARGUMENTS = (
    *("--methods", "simclr", "--encoders", "vit_tiny", "--proportions", "0.01,0.15", "--seeds", "1"),
    *("--baselines", "random,finetuned", "--epochs", "8", "--batch-size", "16", "--optim", "short"),
    *("--views", "inspection", "--view-size", "16", "--precision", "fp32"),
    *("--device", "cpu"),
)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as a worker has, so that results agree bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def results(folder: Path) -> dict[str, Any]:
    found = {}
    for path in folder.glob(f"*/{RESULT}"):
        result = without_clocks(json.loads(path.read_text()))
        found[path.parent.name] = {key: value for key, value in result.items() if key != "command"}
    return found


# Ray and every one of its workers start from nothing.
@pytest.mark.timeout(600)
def test_a_study_on_ray_survives_a_dead_worker_and_gives_what_one_process_gives(
    tmp_path: Path, one_thread: None
) -> None:
    packs = write_packs(tmp_path / "packs", train=72, val=24, test=16)
    study = tmp_path / "ray"
    killed = study / "simclr-vit_tiny-p15-s0"
    with (
        ray_folder() as folder,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "training", "sweep", "study", "--data", packs, "--out", study),
                *(*ARGUMENTS, "--engine", "ray", "--cpus-per-run", "1"),
            ],
            cwd=REPOSITORY,
            env=ray_environment(folder) | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        ) as sweep,
    ):
        try:
            wait_until(lambda: (killed / runs.CHECKPOINT).is_file() or sweep.poll() is not None)
            worker = wait_until(lambda: holder_of(killed / LOCK))
            os.kill(worker, signal.SIGKILL)
            said = sweep.communicate(timeout=280)[1]
        finally:
            sweep.kill()

    # 1 % of defects cannot be drawn, which is said of those three experiments alone.
    assert sweep.returncode == 2, said
    assert "error: 3 experiments failed, the others are not affected" in said
    assert "too few for that proportion" in said
    lines = [line for line in said.splitlines() if line.startswith("[")]
    assert [line.partition("]")[0] for line in lines] == [f"[{number}/6" for number in range(1, 7)]
    tuned = "simclr-vit_tiny-p1-s0, which it starts from, failed"
    assert any(line.endswith(f"finetuned_simclr-vit_tiny-p1-s0: failed: {tuned}") for line in lines)
    ended = [line.split()[1].rstrip(":") for line in lines if "finished after" in line or "collapsed after" in line]
    assert set(ended) == {f"{name}-vit_tiny-p15-s0" for name in ("random", "simclr", "finetuned_simclr")}
    assert ended.index(killed.name) < ended.index(f"finetuned_{killed.name}")

    # The dead worker's experiment went on in another one, from its checkpoint.
    assert runs.read_json(killed / runs.RUN)["session_first_step"] > 0
    straight = open_study(tmp_path / "straight", packs, PLAN, {})
    estimates = dict.fromkeys((experiment.id for experiment in straight.planned), 1.0)
    options = LoopOptions(monitor_frames=256)
    run_missing(straight, estimates, options=options, max_minutes=None, command="", say=lambda _line: None)
    assert results(study) == results(tmp_path / "straight")
    assert set(results(study)) == set(ended)


def test_nothing_is_begun_after_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch.setitem)
    packs = write_packs(tmp_path / "packs", train=72, val=24, test=16)
    study = open_study(tmp_path / "study", packs, settings(), {})
    task = Task(
        folder=study.folder,
        data_folder=packs,
        experiment=study.planned[0],
        options=OPTIONS,
        threads=torch.get_num_threads(),
        estimate_s=60.0,
        deadline=time.time() + 59,
        command="typed",
    )
    assert carry_out(task) == LEFT
    assert not (study.folder / study.planned[0].id).exists()
    report = carry_out(replace(task, deadline=time.time() + 90))
    assert (report.state, report.line.startswith("finished after")) == ("finished", True)
    assert carry_out(replace(task, deadline=None)).state == "elsewhere"
