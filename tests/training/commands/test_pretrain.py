"""The pretrain command: every recipe by name, starts from other runs, and what is said at the end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.toy_packs import ToyPack, toy_pack

from serving.errors import ConfigError, DataError
from training.commands import pretrain as command_module
from training.config import PretrainConfig
from training.features import encoder_digest
from training.loop import Summary
from training.recipes import RECIPES
from training.runs import load_encoder, random_encoder, read_json, save_encoder

SIZE = 32


@pytest.fixture(autouse=True)
def pack(monkeypatch: pytest.MonkeyPatch) -> ToyPack:
    """What the command opens, wherever the pack is said to be."""
    made = toy_pack("train", n=8, size=SIZE)
    monkeypatch.setattr(command_module, "open_pack", lambda path: made)
    return made


def call(folder: Path, *arguments: str, out: str = "run") -> Result:
    given = [str(folder), "--out", str(folder / out), "--device", "cpu", *arguments]
    return CliRunner().invoke(command_module.command, given)


def refusal(result: Result) -> str:
    assert isinstance(result.exception, ConfigError | DataError), result.output
    return str(result.exception)


@pytest.mark.parametrize("pair", list(RECIPES), ids="-".join)
def test_every_recipe_is_reached_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str]
) -> None:
    asked: list[PretrainConfig] = []

    def finished_at_once(config: PretrainConfig, *_: Any, **__: Any) -> Summary:
        asked.append(config)
        return Summary(
            status="finished", epochs_done=3, loss=1.5, rankme=20.25, feature_std=0.125, frames_per_s=99.0, run=tmp_path
        )

    monkeypatch.setattr(command_module, "pretrain", finished_at_once)
    monkeypatch.setattr(command_module, "fastest_precision", lambda device: "fp32")
    result = call(
        tmp_path, "--method", pair[0], "--encoder", pair[1], "--epochs", "3", "--optim", "short", "--seed", "5"
    )
    assert result.exit_code == 0, result.output
    assert asked == [RECIPES[pair](image_size=SIZE, epochs=3, optim="short", seed=5, precision="fp32")]
    assert "finished after 3 epochs" in result.output
    assert all(figure in result.output for figure in ("1.5000", "20.2", "0.1250", "99.0"))


@pytest.mark.parametrize(
    ("method", "encoder", "counterpart"), [("mae", "resnet18", "masked_conv"), ("masked_conv", "vit_tiny", "mae")]
)
def test_a_pair_without_a_recipe_names_what_there_is(
    tmp_path: Path, method: str, encoder: str, counterpart: str
) -> None:
    said = refusal(call(tmp_path, "--method", method, "--encoder", encoder))
    other = {"resnet18": "vit_tiny", "vit_tiny": "resnet18"}[encoder]
    assert f"there is no recipe for {method} on {encoder}. Its counterpart there is --method {counterpart}." in said
    assert f"{method} is for {other}; on {encoder} there are simclr, barlow_twins, byol, dino, {counterpart}" in said
    assert not (tmp_path / "run").exists()


def test_an_unknown_method_or_encoder_lists_those_there_are(tmp_path: Path) -> None:
    for option, known in (("--method", "'simclr', 'barlow_twins'"), ("--encoder", "'resnet18', 'vit_tiny'")):
        result = call(tmp_path, option, "swav")
        assert result.exit_code == 2
        assert f"is not one of {known}" in " ".join(result.output.replace("│", " ").split())


def finished_run(folder: Path, encoder: str, image_size: int = SIZE) -> str:
    """A run folder with an encoder in it; returns the encoder's digest."""
    made = random_encoder(encoder, image_size, seed=9)
    save_encoder(folder, made)
    (folder / "config.json").write_text(f'{{"encoder": "{encoder}", "image_size": {image_size}}}')
    return encoder_digest(made)


def test_a_run_starts_from_the_encoder_of_another_and_goes_on_with_it(tmp_path: Path) -> None:
    digest = finished_run(tmp_path / "first", "vit_tiny")
    short = ("--method", "mae", "--epochs", "2", "--batch-size", "4", "--precision", "fp32")
    # Nothing more is needed: it is a ViT of the size that the first run had.
    paused = call(tmp_path, *short, "--init", str(tmp_path / "first"), "--max-minutes", "1e-9")
    assert paused.exit_code == 0, paused.output
    assert "the same command with --resume goes on" in paused.output
    config = PretrainConfig.from_json(read_json(tmp_path / "run" / "config.json"))
    assert (config.encoder, config.image_size, config.initial_encoder) == ("vit_tiny", SIZE, digest)
    finished_run(tmp_path / "second", "vit_tiny")
    save_encoder(tmp_path / "second", random_encoder("vit_tiny", SIZE, seed=10))
    said = refusal(call(tmp_path, "--resume", "--init", str(tmp_path / "second")))
    assert "was not started from the encoder of --init" in said
    resumed = call(tmp_path, "--resume", "--init", str(tmp_path / "first"))
    assert "finished after 2 epochs" in resumed.output, resumed.output
    assert "Next: pipeprobe-train probe" in resumed.output
    assert encoder_digest(load_encoder(tmp_path / "run")[0]) != digest


def test_an_encoder_that_cannot_be_started_from_is_refused(tmp_path: Path) -> None:
    finished_run(tmp_path / "first", "vit_tiny", image_size=16)
    said = refusal(call(tmp_path, "--init", str(tmp_path / "first"), "--encoder", "resnet18", "--batch-size", "4"))
    assert "resnet18 needs frames of at least 32 px" in said
    said = refusal(call(tmp_path, "--init", str(tmp_path / "first"), "--image-size", str(SIZE), "--batch-size", "4"))
    assert "vit_tiny at 16 px, does not fit vit_tiny at 32 px: train with --encoder vit_tiny --image-size 16" in said
    (tmp_path / "first" / "encoder.pt").unlink()
    assert "the run has not finished" in refusal(call(tmp_path, "--init", str(tmp_path / "first")))
    assert not (tmp_path / "run").exists()


def test_resuming_where_there_is_no_run_is_refused(tmp_path: Path) -> None:
    assert "run is not a run folder: it holds no config.json" in refusal(call(tmp_path, "--resume"))


@pytest.mark.parametrize(
    ("status", "words"), [("collapsed", "Start another run: with --optim recommended"), ("paused", "Time is up")]
)
def test_what_to_do_is_said_and_what_was_not_measured_is_left_out(
    capsys: pytest.CaptureFixture[str], status: str, words: str
) -> None:
    nothing = {"loss": math.nan, "rankme": math.nan, "feature_std": math.nan}
    summary = Summary(status=status, epochs_done=0, frames_per_s=12.5, run=Path("runs/a"), **nothing)
    command_module._print_summary(summary)
    said = capsys.readouterr().out
    assert f"runs/a: {status} after 0 epochs" in said
    assert words in said
    assert "nan" not in said
    command_module._print_summary(replace(summary, status="finished"))
    assert "Next: pipeprobe-train probe runs/a --train" in capsys.readouterr().out
