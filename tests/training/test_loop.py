"""The pretraining loop: resumed runs equal straight ones bit for bit, and what goes wrong is said."""

from __future__ import annotations

import json
import logging
import math
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.toy_packs import ToyPack, toy_pack
from torch import Tensor, nn

from serving.errors import ConfigError, DataError
from training import loop
from training.backbones import ENCODERS, Encoder
from training.commands import pretrain as command_module
from training.config import PretrainConfig
from training.data.augment import View, ViewSpec, symmetric_views
from training.heads import build_mlp
from training.loop import DivergedError, LoopOptions, RunWriteError, Summary, pretrain, step_seed
from training.methods import METHODS, Method, MethodConfig
from training.optim import OptimConfig
from training.recipes import simclr_resnet18
from training.runs import load_encoder, load_tensors, read_json, save_tensors

SIZE = 16
EPOCHS = 6
# What a clock decides; everything else must be the same after a resume.
CLOCK_FIELDS = {"frames_per_s"}


class TinyEncoder(Encoder):
    """A convolution, a norm, a ReLU: quick, with buffers that a checkpoint must keep."""

    def __init__(self, image_size: int) -> None:
        super().__init__("tiny", image_size, stride=4, feature_dim=8)
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)

    def check_view_size(self, size: int) -> None:
        pass

    def feature_map(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


@dataclass(frozen=True, kw_only=True)
class MaskedTeacherConfig(MethodConfig):
    drop: float = 0.3


class MaskedTeacher(Method):
    """All that later methods need of the loop: multi-crop views, own random draws, an averaged teacher."""

    Config = MaskedTeacherConfig

    def __init__(self, encoder: Encoder, config: MaskedTeacherConfig) -> None:
        super().__init__(encoder, config)
        self.drop = config.drop
        self.student = build_mlp((8, 6), norm_output=False)
        self.teacher = build_mlp((8, 6), norm_output=False).requires_grad_(False)

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        large, *small = (view.mean((2, 3)) @ torch.ones(3, 8) + self.encoder.norm.weight for view in views)
        kept = torch.rand(large.shape, generator=self.generator) >= self.drop
        target = self.teacher(large * kept)
        return sum(((self.student(view) - target) ** 2).mean().float() for view in small) / len(small)

    def after_step(self, progress: float) -> None:
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                slow.lerp_(fast, 0.1 * progress)


@pytest.fixture(autouse=True)
def tiny_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "tiny", TinyEncoder)
    monkeypatch.setitem(METHODS, "masked_teacher", MaskedTeacher)


@pytest.fixture
def pack() -> ToyPack:
    return toy_pack("train", n=44, size=SIZE)


def simclr_config() -> PretrainConfig:
    config = simclr_resnet18(image_size=SIZE, epochs=EPOCHS, batch_size=8, seed=3)
    return replace(config, encoder="tiny", method_config=replace(config.method_config, projector=(16, 8)))


def masked_config() -> PretrainConfig:
    views = ViewSpec(views=(View(size=SIZE), View(size=8, count=3, crop_scale=(0.05, 0.4))))
    adamw = OptimConfig(name="adamw", lr=1e-2, weight_decay=0.05, warmup_epochs=1, clip_grad_norm=3.0)
    return replace(
        simclr_config(), method="masked_teacher", method_config=MaskedTeacherConfig(views=views), optim=adamw
    )


def options(**changes: Any) -> LoopOptions:
    return LoopOptions(**{"log_steps": 2, "monitor_frames": 16, **changes})


def run_to(run: Path, pack: ToyPack, config: PretrainConfig, *, resume: bool = False, **changes: Any) -> Summary:
    return pretrain(config, pack, run, options=options(**changes), resume=resume)


def lines(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCK_FIELDS} for line in found]


class Killed(BaseException):
    """Stands for a kill: nothing in the loop may catch it and carry on."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Die inside step `step`, after the optimiser has moved the weights and before anything is recorded."""
    original: Callable[..., Any] = loop._Loop.train_step

    def dying(self: Any, frames: Tensor) -> Any:
        result = original(self, frames)
        if self.step == step:
            raise Killed
        return result

    monkeypatch.setattr(loop._Loop, "train_step", dying)


@pytest.mark.parametrize("make_config", [simclr_config, masked_config])
# 5 steps an epoch: just after epoch 3; later, so that lines written after the checkpoint must go; and within an
# epoch with a checkpoint every 4 steps.
@pytest.mark.parametrize(("killed_at", "checkpoint_steps"), [(16, None), (19, None), (14, 4)])
def test_a_killed_and_resumed_run_is_the_straight_run_bit_for_bit(
    tmp_path: Path,
    pack: ToyPack,
    make_config: Callable[[], PretrainConfig],
    killed_at: int,
    checkpoint_steps: int | None,
) -> None:
    config, straight, broken = make_config(), tmp_path / "straight", tmp_path / "broken"
    run_to(straight, pack, config)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, killed_at)
        with pytest.raises(Killed):
            run_to(broken, pack, config, checkpoint_steps=checkpoint_steps)
    assert read_json(broken / "run.json")["status"] == "failed"
    torch.rand(5)
    summary = run_to(broken, pack, config, resume=True)
    assert summary.status == "finished"
    assert lines(broken) == lines(straight)
    expected = load_encoder(straight)[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in load_encoder(broken)[0].state_dict().items())


def test_a_run_leaves_what_the_folder_promises(tmp_path: Path, pack: ToyPack) -> None:
    summary = run_to(tmp_path / "run", pack, simclr_config())
    records = lines(tmp_path / "run")
    epochs = [record for record in records if record["kind"] == "epoch"]
    assert [record["step"] for record in epochs] == [5, 10, 15, 20, 25, 30]
    assert [record["step"] for record in records if record["kind"] == "step"] == list(range(2, 31, 2))
    assert min(record["loss"] for record in epochs[1:]) < epochs[0]["loss"]
    assert summary.loss == epochs[-1]["loss"]
    assert summary.rankme == epochs[-1]["rankme"] > 1
    info = read_json(tmp_path / "run" / "run.json")
    assert (info["status"], info["total_steps"], info["collapsed"]) == ("finished", 30, False)
    assert info["pack"]["digest"] == pack.digest
    assert info["packages"]["torch"]
    assert PretrainConfig.from_json(read_json(tmp_path / "run" / "config.json")) == simclr_config()


def test_the_same_seed_makes_the_same_run_and_another_does_not(tmp_path: Path, pack: ToyPack) -> None:
    config = replace(simclr_config(), epochs=1)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run_to(tmp_path / name, pack, replace(config, seed=seed))
    assert lines(tmp_path / "a") == lines(tmp_path / "b") != lines(tmp_path / "c")


def test_time_runs_out_after_a_checkpoint_and_the_run_goes_on(tmp_path: Path, pack: ToyPack) -> None:
    config, run = simclr_config(), tmp_path / "run"
    paused = run_to(run, pack, config, max_minutes=1e-9)
    assert paused.status == read_json(run / "run.json")["status"] == "paused"
    assert math.isnan(paused.loss)
    assert not (run / "encoder.pt").exists()
    run_to(tmp_path / "straight", pack, config)
    assert run_to(run, pack, config, resume=True).status == "finished"
    assert lines(run) == lines(tmp_path / "straight")


def test_a_run_folder_is_not_overwritten_and_nothing_is_resumed_from_nothing(tmp_path: Path, pack: ToyPack) -> None:
    config = replace(simclr_config(), epochs=1)
    with pytest.raises(ConfigError, match=r"no checkpoint\.pt to resume from: delete the folder and start anew"):
        run_to(tmp_path / "new", pack, config, resume=True)
    assert not (tmp_path / "new").exists()
    run_to(tmp_path / "run", pack, config)
    with pytest.raises(ConfigError, match="already holds a run"):
        run_to(tmp_path / "run", pack, config)


def test_another_config_or_pack_is_not_resumed(tmp_path: Path, pack: ToyPack) -> None:
    config = replace(simclr_config(), epochs=1)
    run_to(tmp_path, pack, config)
    with pytest.raises(ConfigError, match=r"optim\.lr: .* -> 0\.5"):
        run_to(tmp_path, pack, replace(config, optim=replace(config.optim, lr=0.5)), resume=True)
    with pytest.raises(ConfigError, match=r"another pack than toy: .* Resume with that pack"):
        run_to(tmp_path, toy_pack("train", n=44, size=SIZE, seed=1), config, resume=True)
    before = (tmp_path / "encoder.pt").read_bytes()
    assert run_to(tmp_path, pack, config, resume=True).status == "finished"
    assert (tmp_path / "encoder.pt").read_bytes() == before


def test_another_number_of_threads_is_said(tmp_path: Path, pack: ToyPack, caplog: pytest.LogCaptureFixture) -> None:
    config = replace(simclr_config(), epochs=1)
    run_to(tmp_path, pack, config)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with caplog.at_level(logging.WARNING):
            run_to(tmp_path, pack, config, resume=True)
    finally:
        torch.set_num_threads(threads)
    assert "not bit for bit" in caplog.text


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """The system refuses to write more into a file, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_and_spares_the_checkpoint(tmp_path: Path, pack: ToyPack) -> None:
    straight, run = tmp_path / "straight", tmp_path / "run"
    run_to(straight, pack, masked_config())
    run_to(run, pack, masked_config(), max_minutes=1e-9)
    before = (run / "checkpoint.pt").read_bytes()
    assert len(before) > 2 * (straight / "metrics.jsonl").stat().st_size
    with files_of_at_most(len(before) // 2), pytest.raises(RunWriteError) as caught:
        run_to(run, pack, masked_config(), resume=True)
    said = str(caught.value)
    assert said.startswith(f"{run}: a checkpoint cannot be written at step 5 (File too large)")
    assert "checkpoint.pt of step 1 is kept. Free space on that disk" in said
    assert said.endswith("go on with --resume")
    assert (run / "checkpoint.pt").read_bytes() == before
    assert {file.name for file in run.iterdir()} == {"config.json", "run.json", "metrics.jsonl", "checkpoint.pt"}
    assert read_json(run / "run.json")["status"] == "failed"
    run_to(run, pack, masked_config(), resume=True)
    assert lines(run) == lines(straight)


@pytest.mark.parametrize(("n_bytes", "what"), [(100, r"config\.json"), (6000, "a checkpoint")])
def test_a_disk_that_is_full_from_the_start_is_said(tmp_path: Path, pack: ToyPack, n_bytes: int, what: str) -> None:
    with files_of_at_most(n_bytes), pytest.raises(RunWriteError, match=f"{what} cannot be .* no checkpoint is there"):
        run_to(tmp_path / "run", pack, simclr_config())
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_what_a_kill_in_the_middle_of_writing_leaves_is_not_taken_for_whole(tmp_path: Path, pack: ToyPack) -> None:
    straight, run = tmp_path / "straight", tmp_path / "run"
    run_to(straight, pack, simclr_config())
    run_to(run, pack, simclr_config(), max_minutes=1e-9)
    whole = (run / "checkpoint.pt").read_bytes()
    (run / ".checkpoint.pt.0123abcd.partial").write_bytes(whole[: len(whole) // 2])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "lo')
    run_to(run, pack, simclr_config(), resume=True)
    assert lines(run) == lines(straight)
    assert {file.name for file in run.iterdir()} == {file.name for file in straight.iterdir()}


def test_a_checkpoint_that_is_damaged_or_of_another_version_is_named(tmp_path: Path, pack: ToyPack) -> None:
    run_to(tmp_path, pack, simclr_config(), max_minutes=1e-9)
    path = tmp_path / "checkpoint.pt"
    whole, saved = path.read_bytes(), load_tensors(path)
    metrics = (tmp_path / "metrics.jsonl").read_bytes() if (tmp_path / "metrics.jsonl").exists() else None
    path.write_bytes(whole[: len(whole) // 2])
    refused = rf"checkpoint\.pt cannot be resumed from: .*Delete {tmp_path} and start anew"
    with pytest.raises(DataError, match=refused):
        run_to(tmp_path, pack, simclr_config(), resume=True)
    for key in ("step", "method"):
        save_tensors(path, {name: value for name, value in saved.items() if name != key})
        with pytest.raises(DataError, match=refused):
            run_to(tmp_path, pack, simclr_config(), resume=True)
    save_tensors(path, {**saved, "method": {"encoder.conv.weight": torch.zeros(1)}})
    with pytest.raises(DataError, match=r"(?s)" + refused):
        run_to(tmp_path, pack, simclr_config(), resume=True)
    assert metrics is None or (tmp_path / "metrics.jsonl").read_bytes() == metrics


def test_the_note_beside_the_bar_says_how_the_epoch_before_ended(tmp_path: Path, pack: ToyPack) -> None:
    state = loop._Loop(simclr_config(), pack, tmp_path, options())
    assert state._note(0) == "epoch 1/6"
    state.last_epoch = {"loss": 3.14159, "rankme": 7.25}
    assert state._note(1) == "epoch 2/6, loss 3.142, RankMe 7.2"


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(
    tmp_path: Path, pack: ToyPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_to(tmp_path, pack, simclr_config(), max_minutes=1e-9)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    original = METHODS["simclr"].loss
    monkeypatch.setattr(METHODS["simclr"], "loss", lambda self, *given: original(self, *given) * math.inf)
    with pytest.raises(
        DivergedError, match=r"the loss is (inf|nan) at step 2 of 30 in .*--precision fp32.*step 1 is kept"
    ):
        run_to(tmp_path, pack, simclr_config(), resume=True, checkpoint_steps=1, log_steps=1000)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert read_json(tmp_path / "run.json")["status"] == "failed"


def test_collapse_is_said_loudly_and_recorded(
    tmp_path: Path, pack: ToyPack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(TinyEncoder, "forward", lambda self, x: torch.ones(len(x), 8) + 0 * self.conv.weight.sum())
    with caplog.at_level(logging.WARNING):
        summary = run_to(tmp_path, pack, replace(simclr_config(), epochs=2))
    assert summary.status == "collapsed"
    assert caplog.text.count("COLLAPSE") == 2
    info = read_json(tmp_path / "run.json")
    assert (info["status"], info["collapsed"]) == ("collapsed", True)


def test_packs_that_do_not_suit_are_refused(tmp_path: Path, pack: ToyPack) -> None:
    with pytest.raises(ConfigError, match="fewer than a batch"):
        run_to(tmp_path, pack, replace(simclr_config(), batch_size=64))
    with pytest.raises(ConfigError, match="too small for image_size=32"):
        run_to(tmp_path, pack, replace(simclr_config(), image_size=32))


def test_larger_packs_are_shrunk_on_the_way(tmp_path: Path) -> None:
    pack = toy_pack("train", n=16, size=24)
    run_to(tmp_path, pack, replace(simclr_config(), epochs=1))
    assert load_encoder(tmp_path)[0].image_size == SIZE


def test_evaluation_between_epochs_leaves_the_norms_in_training_mode(tmp_path: Path, pack: ToyPack) -> None:
    state = loop._Loop(simclr_config(), pack, tmp_path, options())
    before = {name: value.clone() for name, value in state.method.state_dict().items()}
    features = state.monitor_features()
    assert features.shape == (16, 8)
    assert features.dtype == torch.float32
    assert state.method.encoder.training
    assert all(torch.equal(value, before[name]) for name, value in state.method.state_dict().items())


def test_seeds_of_steps_and_streams_differ() -> None:
    seeds = {step_seed(seed, step, stream) for seed in range(3) for step in range(50) for stream in range(2)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    "changes", [{"log_steps": 0}, {"monitor_frames": 1}, {"checkpoint_steps": -1}, {"max_minutes": 0.0}]
)
def test_options_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        options(**changes)


def test_one_real_epoch_of_the_recipe_in_bf16(tmp_path: Path) -> None:
    config = simclr_resnet18(image_size=32, epochs=1, batch_size=8)
    assert config.method_config.views == symmetric_views(32)
    summary = run_to(tmp_path, toy_pack("train", n=16, size=32), config)
    assert math.isfinite(summary.loss)
    encoder, _ = load_encoder(tmp_path)
    assert all(value.dtype == torch.float32 for value in encoder.parameters())


def test_the_command_trains_resumes_and_refuses_to_change(
    tmp_path: Path, pack: ToyPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_module, "open_pack", lambda path: pack)
    monkeypatch.setitem(command_module.RECIPES, ("simclr", "resnet18"), lambda **given: replace(
        simclr_config(), **{key: given[key] for key in ("epochs", "seed", "batch_size", "image_size")}
    ))  # fmt: skip

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(
            command_module.command, [str(tmp_path), "--out", str(tmp_path / "run"), "--device", "cpu", *arguments]
        )

    first = call("--epochs", "2", "--batch-size", "8", "--max-minutes", "1e-9")
    assert first.exit_code == 0, first.output
    assert "paused" in first.output
    assert "--resume goes on" in first.output
    refused = call("--resume", "--epochs", "3")
    assert isinstance(refused.exception, ConfigError)
    assert "started with --epochs 2, not 3" in str(refused.exception)
    resumed = call("--resume", "--epochs", "2")
    assert "finished after 2 epochs" in resumed.output
    assert read_json(tmp_path / "run" / "config.json")["image_size"] == SIZE


@pytest.mark.parametrize(
    ("device", "words"), [("tpu", "not a device"), ("meta", "not on meta"), ("cuda:9", "torch sees")]
)
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, device: str, words: str) -> None:
    arguments = [str(tmp_path), "--out", str(tmp_path / "run"), "--device", device]
    result = CliRunner().invoke(command_module.command, arguments)
    assert words in str(result.exception)


def test_the_subset_is_spread_over_the_pack(tmp_path: Path, pack: ToyPack, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    state = loop._Loop(simclr_config(), pack, tmp_path, options(monitor_frames=4))
    monkeypatch.setattr(loop, "normalise", lambda rows: seen.append(rows.numpy()) or rows.permute(0, 3, 1, 2).float())
    state.monitor_features()
    np.testing.assert_array_equal(seen[0], pack.frames[[0, 14, 28, 43]])
