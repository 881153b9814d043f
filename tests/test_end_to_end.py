"""The whole path on simulated pipes: simulate, pack, pretrain, probe, export, build the Bento, serve, score."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from support.bento import build_bento
from support.commands import run_script
from support.live_service import live_service

SIZE = 64
EPOCHS = 8

# Its one fixture goes the whole way, which takes minutes on two cores that have other work.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with simulated frames, their packs, a pretrained and an untrained encoder, probed, and a pair."""
    folder = tmp_path_factory.mktemp("workshop")

    def train(*arguments: str | Path) -> str:
        return run_script("pipeprobe-train", *arguments, cwd=folder)

    train("simulate", "frames", "frames", "--train", "1600", "--val", "640", "--size", "64", "--seed", "7")
    for split in ("train", "val"):
        train("pack", "frames", "--split", split, "--size", str(SIZE), "--out", f"packs/{split}")
    train(
        *("pretrain", "packs/train", "--method", "simclr", "--encoder", "resnet18", "--out", "runs/simclr"),
        *("--optim", "short", "--views", "inspection", "--epochs", str(EPOCHS), "--batch-size", "64"),
    )
    train("probe", "runs/simclr", "--train", "packs/train", "--val", "packs/val")
    train("probe", "runs/floor", "--random-init", "resnet18", "--train", "packs/train", "--val", "packs/val")
    train(
        *("export", "runs/simclr", "--pack", "packs/val", "--out", "models", "--default"),
        *("--name", "simclr-resnet18", "--version", "0.0.1", "--variants", "fp32"),
    )
    return folder


def _val_auroc(run: Path) -> float:
    report = json.loads((run / "probe" / "probe.json").read_text())
    (value,) = [m["value"] for m in report["metrics"] if m["name"] == "auroc" and m["data"] == "val"]
    return float(value)


def test_pretraining_beats_an_untrained_encoder(workshop: Path) -> None:
    assert _val_auroc(workshop / "runs" / "simclr") > _val_auroc(workshop / "runs" / "floor")


def test_bento_of_the_pair_scores_over_http(workshop: Path, tmp_path: Path) -> None:
    bento = build_bento(models=workshop / "models", home=tmp_path / "bentoml")
    frames = sorted((workshop / "frames" / "valid").glob("*.png"))[:16]
    lines = run_script("pipeprobe", "score", *frames, "--json", "-", cwd=tmp_path, models=workshop / "models")
    scored = [json.loads(line) for line in lines.splitlines()]
    with live_service(bento=bento) as url:
        answers = [httpx.post(f"{url}/v1/score", content=f.read_bytes(), timeout=30).json() for f in frames]
    assert [a["pair"] for a in answers] == ["simclr-resnet18"] * len(frames)
    assert [a["score"] for a in answers] == pytest.approx([s["score"] for s in scored], abs=1e-4)
    assert len({round(a["score"], 4) for a in answers}) > 1
