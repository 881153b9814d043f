"""Compiled encoders compute the same, save the same, and are refused where nothing can be compiled."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._inductor.config
from support.toy_packs import toy_pack
from torch import Tensor, nn

from serving.errors import ConfigError
from training.backbones import ENCODERS, Encoder
from training.compiled import compile_encoders, uncompiled
from training.config import PretrainConfig
from training.loop import LoopOptions, pretrain
from training.recipes import byol_resnet18
from training.runs import load_tensors, read_json

SIZE = 16


class TinyEncoder(Encoder):
    """A convolution, a norm, a ReLU."""

    def __init__(self, image_size: int) -> None:
        super().__init__("tiny", image_size, stride=4, feature_dim=8)
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)

    def check_view_size(self, size: int) -> None:
        pass

    def feature_map(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


@pytest.fixture(autouse=True)
def tiny_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "tiny", TinyEncoder)
    torch._dynamo.reset()


def tiny_config() -> PretrainConfig:
    # BYOL has a second encoder, its averaged copy.
    config = byol_resnet18(image_size=SIZE, epochs=2, batch_size=8, precision="fp32")
    small = replace(config.method_config, projector=(16, 8), predictor=(16, 8))
    return replace(config, encoder="tiny", method_config=small)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_run_is_the_plain_one_and_saves_the_same_names(tmp_path: Path) -> None:
    pack, checkpoints = toy_pack("train", n=16, size=SIZE), []
    for compiled in (False, True):
        run = tmp_path / str(compiled)
        pretrain(tiny_config(), pack, run, options=LoopOptions(monitor_frames=8, compile=compiled))
        checkpoints.append(load_tensors(run / "checkpoint.pt"))
        assert read_json(run / "run.json")["compiled"] is compiled
    plain, compiled_one = checkpoints
    assert plain["last_epoch"] == pytest.approx(compiled_one["last_epoch"], rel=1e-4)
    assert list(plain["method"]) == list(compiled_one["method"])
    for name, value in plain["method"].items():
        torch.testing.assert_close(compiled_one["method"][name], value, rtol=1e-4, atol=1e-5)
    pretrain(tiny_config(), pack, tmp_path / "True", options=LoopOptions(monitor_frames=8), resume=True)


def test_rare_passes_run_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.compiled._try_compiler", lambda device: None)
    seen: list[bool] = []

    class Watching(TinyEncoder):
        def feature_map(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_compiling():
                seen.append(True)
            return super().feature_map(x)

    encoder = Watching(SIZE)
    compile_encoders(nn.Sequential(encoder), torch.device("cpu"))
    with uncompiled(True), torch.no_grad():
        encoder(torch.zeros(2, 3, SIZE, SIZE))
    assert seen == [True]


def test_a_machine_without_a_compiler_is_found_out_before_the_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing compiled earlier may help.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(ConfigError, match=r"does not work on cpu here: .*Leave --compile out, or install"):
        pretrain(
            tiny_config(),
            toy_pack("train", n=16, size=SIZE),
            tmp_path / "run",
            options=LoopOptions(compile=True),
        )
    assert not (tmp_path / "run").exists()
