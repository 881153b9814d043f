"""Two processes are one: the same losses, gradients, buffers and runs, whichever shares the batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from support import shared_steps
from support.datasets import write_sewer_ml
from support.shared_steps import PAIRS, RUNS, SIZE, config_of, run_pretraining, step
from support.toy_packs import toy_pack
from torch import Tensor, nn

from serving.errors import ConfigError, DeviceError
from training import distributed
from training.backbones import build_encoder, seeded_init
from training.commands.pretrain import command
from training.data.augment import make_views, symmetric_views
from training.data.pack import build_pack
from training.data.sewer_ml import read_sewer_ml
from training.distributed import (
    average_gradients,
    gather,
    joined_processes,
    rank,
    require_same,
    said_by_first,
    share_of_batch,
    world_size,
)
from training.loop import LoopOptions, pretrain
from training.runs import load_encoder, load_tensors, read_json

ROOT = Path(__file__).parents[2]


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes by torchrun, which end well."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    env = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two real processes left; see `support.shared_steps`."""
    out = tmp_path_factory.mktemp("shared")
    launch(str(shared_steps.__file__), str(out))
    return out


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_shared_step_is_the_whole_one(shared: Path, pair: tuple[str, str]) -> None:
    whole = step(*pair)
    for process in range(2):
        part = torch.load(shared / f"steps-{process}.pt", weights_only=True)[pair]
        assert part.keys() == whole.keys()
        assert sum(name.startswith("gradient of ") for name in part) > 20
        for name, expected in whole.items():
            # A gradient of rounding alone, where a norm takes away what a bias adds, has no digits to agree on.
            size = max(float(expected.abs().max()), 1e-4)
            torch.testing.assert_close(
                part[name], expected, rtol=0, atol=1e-9 * size, msg=lambda text, name=name: f"{name}: {text}"
            )


def step_lines(run: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "step"]


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Euclidean, over all weights that are not counts."""
    return sum(
        float((value.double() - second[name].double()).square().sum())
        for name, value in first.items()
        if value.is_floating_point()
    ) ** 0.5  # fmt: skip


def assert_same_end(shared: Path, single: Path, *, start: dict[str, Tensor]) -> None:
    """Both encoders lie at the same place, measured by how far they went from where they started."""
    ends = [load_encoder(run)[0].state_dict() for run in (shared, single)]
    moved = distance(ends[1], start)
    assert moved > 0
    assert distance(*ends) < 0.02 * moved


@pytest.mark.parametrize("pair", RUNS, ids="-".join)
def test_a_shared_run_is_the_run_of_one_process(shared: Path, tmp_path: Path, pair: tuple[str, str]) -> None:
    run = shared / "-".join(pair)
    summary = run_pretraining(tmp_path, *pair)
    info = read_json(run / "run.json")
    assert (info["status"], info["processes"], info["total_steps"]) == ("finished", 2, 2)
    mine, theirs = step_lines(run), step_lines(tmp_path)
    assert [line["step"] for line in mine] == [1, 2]
    assert [line["loss"] for line in mine] == pytest.approx([line["loss"] for line in theirs], rel=1e-5)
    assert [line["grad_norm"] for line in mine] == pytest.approx([line["grad_norm"] for line in theirs], rel=1e-3)
    assert info["rankme"] == pytest.approx(summary.rankme, rel=1e-3)
    config = config_of(*pair)
    with seeded_init(config.seed):
        start = build_encoder(config.encoder, image_size=SIZE).state_dict()
    assert_same_end(run, tmp_path, start=start)
    saved, own = (load_tensors(folder / "checkpoint.pt")["method"] for folder in (run, tmp_path))
    assert list(saved) == list(own)


def test_the_clock_of_one_process_stops_all_and_one_process_goes_on(shared: Path, tmp_path: Path) -> None:
    run, pair = shared / "paused", RUNS[0]
    assert len(step_lines(run)) <= 1
    assert read_json(run / "run.json")["status"] == "paused"
    pack, options = toy_pack("train", n=12, size=SIZE), LoopOptions(log_steps=1, monitor_frames=8)
    resumed = pretrain(config_of(*pair), pack, run, options=options, resume=True)
    straight = run_pretraining(tmp_path, *pair)
    assert resumed.status == "finished"
    assert resumed.loss == pytest.approx(straight.loss, rel=1e-5)
    assert read_json(run / "run.json")["processes"] == 1


@pytest.mark.parametrize("process", [0, 1])
def test_processes_agree_or_end(shared: Path, process: int) -> None:
    words = json.loads((shared / f"words-{process}.json").read_text())
    assert words["paused"] == "paused"
    assert words["said"] is True
    assert (
        "a batch of 9 frames cannot be divided evenly over 2 processes: take a batch size of 10" in words["odd batch"]
    )
    assert "process 1 of the run has another pack than process 0" in words["different"]
    left_alone = "another process of the run ended early: its own message says why"
    assert words["end"] == (left_alone if process == 0 else "1 process")


def test_the_command_runs_under_torchrun_and_goes_on_without(tmp_path: Path) -> None:
    table = read_sewer_ml(write_sewer_ml(tmp_path / "set", train=10), "train")
    build_pack(table, size=SIZE, out=tmp_path / "pack", workers=1)
    settings = ["--method", "masked_conv", "--epochs", "2", "--batch-size", "4", "--precision", "fp32"]
    run, straight = str(tmp_path / "run"), str(tmp_path / "straight")
    given = [str(tmp_path / "pack"), *settings, "--device", "cpu", "--threads", "1"]
    done = launch("-m", "training", "pretrain", *given, "--out", run, "--max-minutes", "1e-9")
    assert done.stdout.count("paused after 0 epochs") == 1
    info = read_json(Path(run) / "run.json")
    assert info["command"].startswith("torchrun --nproc-per-node 2 -m training pretrain ")
    assert (info["status"], info["processes"]) == ("paused", 2)
    for arguments in ([*given, "--out", run, "--resume"], [*given, "--out", straight]):
        result = CliRunner().invoke(command, arguments)
        assert "finished after 2 epochs" in result.output, result.output
    ends = [load_encoder(Path(folder))[0].state_dict() for folder in (run, straight)]
    with seeded_init(0):
        start = build_encoder("resnet18", image_size=SIZE).state_dict()
    assert distance(*ends) < 0.02 * distance(ends[1], start)


# ---- alone --------------------------------------------------------------------------------------------------


def test_alone_all_is_as_it_is() -> None:
    x = torch.ones(3, 2)
    assert gather(x) is x
    assert (world_size(), rank()) == (1, 0)
    assert share_of_batch(7) == slice(0, 7)
    assert said_by_first(True)
    assert not said_by_first(False)
    require_same(config=1)
    layer = nn.Linear(2, 1)
    layer(x).sum().backward()
    average_gradients(layer.parameters())
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, torch.full((1, 2), 3.0))
    with joined_processes("cuda:1") as device:
        assert device == "cuda:1"


@pytest.mark.parametrize("process", [0, 1])
def test_views_of_a_share_are_those_of_the_batch(process: int, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = torch.from_numpy(toy_pack("train", n=6, size=SIZE).frames)
    whole = make_views(frames, symmetric_views(16), torch.Generator().manual_seed(3))
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: process)
    share = share_of_batch(6)
    part = make_views(frames[share], symmetric_views(16), torch.Generator().manual_seed(3))
    for mine, all_of_them in zip(part, whole, strict=True):
        torch.testing.assert_close(mine, all_of_them[share], rtol=0, atol=1e-6)


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert distributed._own_device("cuda") == "cuda:2"
    assert distributed._own_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match=r"cuda:1 is one GPU, .* ask for cuda"):
        distributed._own_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match=r"more processes than the 2 CUDA devices .* --nproc-per-node 2"):
        distributed._own_device("cuda")
