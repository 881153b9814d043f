"""Studies that end in seconds: an encoder of one convolution, packs in memory and on disk, settings for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from support.datasets import write_sewer_ml
from support.toy_packs import toy_pack
from torch import Tensor, nn

from training.backbones import ENCODERS, Encoder
from training.config import PretrainConfig
from training.data.pack import Pack, build_pack
from training.data.sewer_ml import read_sewer_ml
from training.loop import LoopOptions
from training.optim import OptimConfig
from training.recipes import RECIPES, simclr_resnet18
from training.study.experiment import StudyData
from training.study.plan import StudySettings
from training.supervised import LEARNING_RATES

SIZE = 32
OPTIONS = LoopOptions(log_steps=1, monitor_frames=32)
# What a clock decides, and what a commit between two runs would change.
CLOCK = {"wall_time_s", "frames_per_s", "git_revision"}


class TinyEncoder(Encoder):
    """A convolution, a norm, a ReLU."""

    def __init__(self, image_size: int) -> None:
        super().__init__("tiny", image_size, stride=4, feature_dim=8)
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)

    def check_view_size(self, size: int) -> None:
        assert size >= 4

    def feature_map(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


def simclr_tiny(**run: Any) -> PretrainConfig:
    """SimCLR on it, with a small projector."""
    config = simclr_resnet18(**run)
    optim = OptimConfig(name="adamw", lr=1e-3, weight_decay=0.05, warmup_epochs=0)
    small = replace(config.method_config, projector=(16, 8))
    return replace(config, encoder="tiny", method_config=small, optim=optim)


def register_tiny(set_item: Callable[[Any, Any, Any], None]) -> None:
    """Make "tiny" an encoder that studies may name; `set_item` is monkeypatch.setitem or operator.setitem."""
    set_item(ENCODERS, "tiny", TinyEncoder)
    set_item(RECIPES, ("simclr", "tiny"), simclr_tiny)
    set_item(LEARNING_RATES, "tiny", 1e-3)


def settings(**changes: Any) -> StudySettings:
    """One cell of the plan on the tiny encoder: random, simclr, supervised and finetuned, an epoch each."""
    small = {
        "methods": ("simclr",),
        "encoders": ("tiny",),
        "proportions": (0.15,),
        "seeds": 1,
        "epochs": 1,
        "batch_size": 16,
    }
    return StudySettings(**{**small, **changes})


def memory_pack(split: str, **changes: Any) -> Pack:
    """A pack in memory, of `toy_pack`'s frames."""
    toy = toy_pack(split, **{"size": SIZE, **changes})
    return Pack(
        path=Path(split),
        frames=toy.frames,
        labels=toy.labels,
        classes=toy.classes,
        inspections=toy.inspections,
        names=toy.names,
        size=toy.size,
        source=toy.source,
        split=split,
        digest=toy.digest,
        index={},
    )


def memory_data(*, train: int = 120, val: int = 60, test: int = 48) -> StudyData:
    """The three packs of a study in memory, about half of the frames defects."""
    return StudyData(
        train=memory_pack("train", n=train), val=memory_pack("val", n=val), test=memory_pack("test", n=test)
    )


def write_packs(folder: Path, *, train: int = 96, val: int = 64, test: int = 32, size: int = SIZE) -> Path:
    """FOLDER/train, FOLDER/val and FOLDER/test on disk, half of the frames defects; returns the folder."""
    written = write_sewer_ml(folder / "set", train=train, val=val, size=size)
    # Sewer-ML's own test split has no labels.
    other = write_sewer_ml(folder / "other", train=0, val=test, size=size, seed=1)
    for root, split, name in ((written, "train", "train"), (written, "val", "val"), (other, "val", "test")):
        build_pack(read_sewer_ml(root, split), size=size, out=folder / name, workers=1)
    return folder


def without_clocks(value: Any) -> Any:
    """A result without what differs between two runs of the same experiment."""
    if isinstance(value, dict):
        return {key: without_clocks(item) for key, item in value.items() if key not in CLOCK}
    return value
