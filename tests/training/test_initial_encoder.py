"""Runs that start from a given encoder: it is the one that the config names, and it is where the run starts."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.toy_packs import ToyPack, toy_pack
from torch import Tensor, nn

from serving.errors import ConfigError
from training import loop
from training.backbones import ENCODERS, Encoder
from training.config import PretrainConfig
from training.features import encoder_digest
from training.loop import LoopOptions, pretrain
from training.optim import OptimConfig
from training.recipes import byol_resnet18
from training.runs import load_encoder, load_tensors, random_encoder, read_json

SIZE = 16
OPTIONS = LoopOptions(log_steps=1, monitor_frames=8)


class TinyEncoder(Encoder):
    """A convolution, a norm, a ReLU."""

    def __init__(self, image_size: int) -> None:
        super().__init__("tiny", image_size, stride=4, feature_dim=8)
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)

    def check_view_size(self, size: int) -> None:
        assert size % self.stride == 0

    def feature_map(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


class PlacedEncoder(TinyEncoder):
    """With a weight for every place of its map, so that an encoder for another size does not fit."""

    def __init__(self, image_size: int) -> None:
        super().__init__(image_size)
        self.name = "placed"
        self.place = nn.Parameter(torch.zeros(1, 8, *self.map_shape))


@pytest.fixture(autouse=True)
def tiny_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "tiny", TinyEncoder)
    monkeypatch.setitem(ENCODERS, "placed", PlacedEncoder)


@pytest.fixture
def pack() -> ToyPack:
    return toy_pack("train", n=24, size=SIZE)


@pytest.fixture
def given() -> Encoder:
    """An encoder that no seed of a run would draw: its weights are large, and its norm has seen something."""
    encoder = random_encoder("tiny", SIZE, seed=77)
    with torch.no_grad():
        encoder.conv.weight.mul_(3)
        encoder.norm.running_mean.fill_(0.25)
    return encoder


def config_from(given: Encoder | None, *, lr: float = 1e-2, epochs: int = 1) -> PretrainConfig:
    config = byol_resnet18(
        image_size=SIZE,
        epochs=epochs,
        batch_size=8,
        precision="fp32",
        initial_encoder=None if given is None else encoder_digest(given),
    )
    small = replace(config.method_config, projector=(16, 8), predictor=(16, 8))
    adamw = OptimConfig(name="adamw", lr=lr, weight_decay=0.0, warmup_epochs=0)
    return replace(config, encoder="tiny", method_config=small, optim=adamw)


def parameters(run: Path) -> dict[str, Tensor]:
    return dict(load_encoder(run)[0].named_parameters())


def test_a_run_starts_from_the_given_encoder_and_one_without_does_not(
    tmp_path: Path, pack: ToyPack, given: Encoder
) -> None:
    # At a rate this low, weights stay where they started.
    pretrain(config_from(given, lr=1e-9), pack, tmp_path / "given", options=OPTIONS, initial=given)
    pretrain(config_from(None, lr=1e-9), pack, tmp_path / "drawn", options=OPTIONS)
    started, drawn = parameters(tmp_path / "given"), parameters(tmp_path / "drawn")
    for name, expected in given.named_parameters():
        torch.testing.assert_close(started[name], expected, atol=1e-6, rtol=0)
    assert float((drawn["conv.weight"] - given.conv.weight).detach().abs().max()) > 0.1
    assert read_json(tmp_path / "given" / "config.json")["initial_encoder"] == encoder_digest(given)
    assert read_json(tmp_path / "drawn" / "config.json")["initial_encoder"] is None


def test_it_learns_from_there_and_the_given_encoder_stays_as_it_was(
    tmp_path: Path, pack: ToyPack, given: Encoder
) -> None:
    before = encoder_digest(given)
    pretrain(config_from(given), pack, tmp_path / "given", options=OPTIONS, initial=given)
    pretrain(config_from(given), pack, tmp_path / "again", options=OPTIONS, initial=given)
    pretrain(config_from(None), pack, tmp_path / "drawn", options=OPTIONS)
    assert encoder_digest(given) == before
    digests = [encoder_digest(load_encoder(tmp_path / name)[0]) for name in ("given", "again", "drawn")]
    assert digests[0] == digests[1]
    assert len({*digests, before}) == 3


def test_buffers_start_from_there_too_and_so_does_an_averaged_copy(
    tmp_path: Path, pack: ToyPack, given: Encoder
) -> None:
    state = loop._Loop(config_from(given), pack, tmp_path, OPTIONS, given)
    expected = given.state_dict()
    for copied in (state.method.encoder, state.method.target_encoder):
        assert all(torch.equal(value, expected[name]) for name, value in copied.state_dict().items())
    assert state.method.encoder is not given


def test_heads_and_order_depend_on_the_seed_alone(tmp_path: Path, pack: ToyPack, given: Encoder) -> None:
    with_it, without = (
        loop._Loop(config_from(initial), pack, tmp_path, OPTIONS, initial).method for initial in (given, None)
    )
    for name, value in with_it.projector.state_dict().items():
        assert torch.equal(value, without.projector.state_dict()[name])


def refused(run: Path, pack: ToyPack, config: PretrainConfig, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        pretrain(config, pack, run, options=OPTIONS, **settings)
    assert not run.exists()
    return str(caught.value)


def test_another_encoder_than_the_one_named_is_refused(tmp_path: Path, pack: ToyPack, given: Encoder) -> None:
    other = copy.deepcopy(given)
    with torch.no_grad():
        other.norm.running_var[3] += 1e-3
    message = refused(tmp_path / "run", pack, config_from(given), initial=other)
    assert encoder_digest(given) in message
    assert encoder_digest(other) in message


def test_an_encoder_that_is_named_and_not_given_or_given_and_not_named_is_refused(
    tmp_path: Path, pack: ToyPack, given: Encoder
) -> None:
    digest = encoder_digest(given)
    assert f"from the encoder {digest}, and the one given is none" in refused(
        tmp_path / "run", pack, config_from(given)
    )
    assert f"from the encoder none, and the one given is {digest}" in refused(
        tmp_path / "run", pack, config_from(None), initial=given
    )


@pytest.mark.parametrize(("name", "image_size"), [("placed", SIZE), ("placed", 2 * SIZE), ("tiny", SIZE)])
def test_an_encoder_of_another_kind_or_size_is_refused_by_name(
    tmp_path: Path, pack: ToyPack, name: str, image_size: int
) -> None:
    wrong = random_encoder(name, image_size, seed=0)
    encoder = "tiny" if (name, image_size) == ("placed", SIZE) else "placed"
    message = refused(tmp_path / "run", pack, replace(config_from(wrong), encoder=encoder), initial=wrong)
    assert f"{wrong.name} at {image_size} px" in message
    assert f"{encoder} at {SIZE} px" in message


def test_resuming_needs_no_encoder_and_ends_where_the_straight_run_does(
    tmp_path: Path, pack: ToyPack, given: Encoder
) -> None:
    config = config_from(given, epochs=3)
    pretrain(config, pack, tmp_path / "straight", options=OPTIONS, initial=given)
    paused = pretrain(config, pack, tmp_path / "run", options=replace(OPTIONS, max_minutes=1e-9), initial=given)
    assert paused.status == "paused"
    assert pretrain(config, pack, tmp_path / "run", options=OPTIONS, resume=True).status == "finished"
    ends = [encoder_digest(load_encoder(tmp_path / name)[0]) for name in ("straight", "run")]
    assert ends[0] == ends[1]
    targets = [load_tensors(tmp_path / name / "checkpoint.pt")["method"] for name in ("straight", "run")]
    assert all(torch.equal(value, targets[1][name]) for name, value in targets[0].items())


def test_a_run_is_not_resumed_as_one_from_another_start(tmp_path: Path, pack: ToyPack, given: Encoder) -> None:
    config = config_from(given)
    pretrain(config, pack, tmp_path, options=OPTIONS, initial=given)
    with pytest.raises(ConfigError, match=f"initial_encoder: {encoder_digest(given)} -> None"):
        pretrain(replace(config, initial_encoder=None), pack, tmp_path, options=OPTIONS, resume=True)
