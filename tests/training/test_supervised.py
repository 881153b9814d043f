from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.toy_packs import toy_pack

from serving.errors import ConfigError, DataError
from training.supervised import RESULT, SupervisedConfig, train_supervised


def test_it_learns_from_scratch_what_the_labels_say(tmp_path: Path) -> None:
    train = toy_pack("train", n=250, size=32, strength=60.0, unlabelled=10)
    val = toy_pack("val", n=120, size=32, strength=60.0)
    result = train_supervised(train, val, epochs=4, batch_size=24, out=tmp_path, command="typed")
    assert result.auroc > 0.85
    assert result.losses[-1] < result.losses[0]
    assert (result.n_train, result.n_val) == (240, 120)
    assert result.metrics["auroc"].low < result.auroc < result.metrics["auroc"].high
    record = json.loads((tmp_path / RESULT).read_text())
    assert record["result"]["auroc"] == result.auroc
    assert record["command"] == "typed"
    assert record["config"]["epochs"] == 4


def test_the_same_seed_gives_the_same_result_and_leaves_the_global_generator() -> None:
    train, val = toy_pack("train", n=48, size=32), toy_pack("val", n=24, size=32)
    state = torch.random.get_rng_state()
    first = train_supervised(train, val, encoder="vit_tiny", epochs=1, batch_size=16)
    again = train_supervised(train, val, encoder="vit_tiny", epochs=1, batch_size=16)
    assert first.losses == again.losses
    assert first.metrics == again.metrics
    assert torch.equal(state, torch.random.get_rng_state())


def test_one_class_only_or_other_sizes_are_refused() -> None:
    train = toy_pack("train", n=24, size=32)
    train.labels = np.ones_like(train.labels)
    with pytest.raises(DataError, match="24 defect and 0 normal"):
        train_supervised(train, toy_pack("val", n=24, size=32), epochs=1)
    with pytest.raises(DataError, match="32 px"):
        train_supervised(train, toy_pack("val", n=24, size=64), epochs=1)
    with pytest.raises(ConfigError, match="no encoder"):
        SupervisedConfig(encoder="resnet50")
