"""`classes` as it is typed, on packs on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.datasets import write_folders, write_sewer_ml

from serving.errors import ConfigError, DataError
from training import runs
from training.class_probe import load_class_probe
from training.cli import cli
from training.data.classes import CLASS_CODES, CLASS_NAMES
from training.data.folders import read_folders
from training.data.pack import build_pack
from training.data.sewer_ml import read_sewer_ml


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packs train and val, photographs without classes, and a run with an untrained encoder."""
    root = tmp_path_factory.mktemp("data")
    write_sewer_ml(root / "sewers", train=64, val=24, size=32)
    for split in ("train", "val"):
        build_pack(read_sewer_ml(root / "sewers", split), size=32, out=root / split, workers=1)
    photographs = read_folders(write_folders(root / "photographs", defect=4, normal=4, size=32))
    build_pack(photographs, size=32, out=root / "unclassified", workers=1)
    runs.save_encoder(root / "run", runs.random_encoder("resnet18", 32, 0))
    (root / "run" / "config.json").write_text('{"encoder": "resnet18", "image_size": 32, "method": "random"}')
    return root


def classes(root: Path, *arguments: str, train: str = "train", val: str = "val") -> str:
    packs = ("--train", str(root / train), "--val", str(root / val))
    result = CliRunner(env={"COLUMNS": "140"}).invoke(
        cli, ["classes", str(root / "run"), *packs, "--device", "cpu", *arguments]
    )
    if result.exception is not None:
        raise result.exception
    return result.output


def test_it_prints_and_writes_the_official_scores(folder: Path) -> None:
    text = classes(folder, "--evaluate", f"again={folder / 'val'}")
    fitted = load_class_probe(folder / "run")
    assert set(fitted.probe.l2) == {"RB", "RO"}
    assert fitted.probe.weight.shape == (512, 17)
    for name in ("val", "again"):
        assert f"Classes on {name}: 24 frames" in text
        # The same frames under another name have the same scores.
        assert fitted.scores[name] == fitted.scores["val"]
    (row,) = {line for line in text.splitlines() if f" {CLASS_NAMES['RB']} " in line}
    rb = fitted.scores["val"].per_class["RB"]
    figures = [f"{value:.3f}" for value in (rb.precision, rb.recall, rb.f2, rb.average_precision)]
    assert row.split()[-10:-1:2] == ["12", *figures]
    official = json.loads((folder / "run" / "classes" / "classes.json").read_text())["scores"]["val"]
    (row,) = [line for line in text.splitlines() if "F2CIW " in line and "best" not in line]
    assert f"{official['f2_ciw']:.3f} (" in row
    (row,) = [line for line in text.splitlines() if "F1_Normal " in line]
    assert f"{official['f1_normal']:.3f} (" in row
    absent = ", ".join(code for code in CLASS_CODES if code not in ("RB", "RO"))
    assert absent in " ".join(text.split())
    with np.load(folder / "run" / "classes" / "classes.npz") as arrays:
        assert set(arrays) == {"weight", "bias", "log_odds"}
    assert not list((folder / "run" / "classes").glob("*.partial"))


def test_packs_without_classes_are_refused_with_the_reason(folder: Path) -> None:
    with pytest.raises(DataError, match="data in Sewer-ML's format"):
        classes(folder, val="unclassified")


def test_rare_classes_need_leave_to_be_learnt(folder: Path) -> None:
    with pytest.raises(DataError, match="no class has 40 frames"):
        classes(folder, "--min-examples", "40")


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        (("pack",), "NAME=PACK, got 'pack'"),
        (("=pack",), "NAME=PACK"),
        (("a=x", "a=y"), "'a' twice"),
    ],
)
def test_evaluations_must_be_named(folder: Path, evaluate: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        classes(folder, *(word for value in evaluate for word in ("--evaluate", value)))
