"""`supervised` and `finetune` as they are typed, on packs on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.datasets import write_sewer_ml

from serving.errors import ConfigError, DataError
from training.cli import cli
from training.data.pack import build_pack
from training.data.sewer_ml import read_sewer_ml
from training.runs import load_encoder


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("data")
    write_sewer_ml(root / "sewers", train=16, val=12, size=32)
    for split in ("train", "val"):
        build_pack(read_sewer_ml(root / "sewers", split), size=32, out=root / split, workers=1)
    return root / "train", root / "val"


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, [*map(str, arguments), "--device", "cpu"])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_an_encoder_is_trained_and_then_fine_tuned(packs: tuple[Path, Path], tmp_path: Path) -> None:
    train, val = packs
    data = ("--train", train, "--val", val, "--epochs", "1", "--batch-size", "8", "--seed", "2")
    first, second = tmp_path / "first", tmp_path / "second"
    text = run(
        "supervised", "--encoder", "vit_tiny", "--view-size", "16", "--views", "inspection", *data, "--out", first
    )
    assert "vit_tiny, supervised: 16 frames, measured on 12" in text
    assert "auroc" in text
    before = (first / "encoder.pt").read_bytes()
    text = run("finetune", first, *data, "--out", second)
    assert "vit_tiny, supervised, fine-tuned: 16 frames" in text
    assert (first / "encoder.pt").read_bytes() == before
    assert json.loads((second / "supervised.json").read_text())["config"] == load_encoder(second)[1]
    configs = [load_encoder(folder)[1] for folder in (first, second)]
    assert [config["method"] for config in configs] == ["supervised", "finetuned"]
    assert [config["view_size"] for config in configs] == [16, 32]
    assert [config["views"] for config in configs] == ["inspection", "mild"]
    assert {config["seed"] for config in configs} == {2}
    with pytest.raises(ConfigError, match="already holds a run"):
        run("finetune", first, *data, "--out", second)


def test_only_a_finished_run_is_fine_tuned(packs: tuple[Path, Path], tmp_path: Path) -> None:
    train, val = packs
    (tmp_path / "config.json").write_text('{"encoder": "resnet18", "image_size": 32}')
    with pytest.raises(DataError, match="has not finished"):
        run("finetune", tmp_path, "--train", train, "--val", val, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
