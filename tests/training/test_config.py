"""A pretraining run's config: survives JSON, and refuses what it does not know or what cannot be."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from serving.errors import ConfigError
from training.config import PretrainConfig
from training.recipes import byol_resnet18, dino_resnet18, mae_vit_tiny, simclr_resnet18


def test_the_methods_settings_come_back_as_their_own_class() -> None:
    for config in (
        byol_resnet18(image_size=96),
        dino_resnet18(image_size=96),
        mae_vit_tiny(image_size=96),
        simclr_resnet18(image_size=96, initial_encoder="ab" * 32),
    ):
        again = PretrainConfig.from_json(json.loads(json.dumps(config.to_json())))
        assert again == config
        assert type(again.method_config) is type(config.method_config)


def test_one_methods_settings_are_not_anothers() -> None:
    config = simclr_resnet18(image_size=96)
    with pytest.raises(ConfigError, match="byol does not take a SimCLRConfig"):
        replace(config, method="byol")
    data = config.to_json()
    data["method"] = "byol"
    with pytest.raises(ConfigError, match=r"method_config: unknown keys \['temperature'\], missing keys"):
        PretrainConfig.from_json(data)


def test_whole_numbers_are_taken_for_fractions() -> None:
    data = simclr_resnet18(image_size=96).to_json()
    data["optim"]["clip_grad_norm"] = 3
    assert PretrainConfig.from_json(data).optim.clip_grad_norm == 3.0


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("typo", 1, "unknown keys \\['typo'\\]"),
        ("method_config.typo", 1, "method_config: unknown keys"),
        ("method_config.views.views.0.typo", 1, "views\\[0\\]: unknown keys"),
        ("epochs", "3", "config.epochs must be int"),
        ("epochs", True, "config.epochs must be int"),
        ("epochs", 0, "at least"),
        ("batch_size", 1, "batch_size must be at least 2"),
        ("image_size", 0, "at least"),
        ("seed", -1, "seed must not be negative"),
        ("initial_encoder", 5, "config.initial_encoder must be str"),
        ("optim.lr", None, "config.optim.lr must be float"),
        ("optim.betas", [0.9], "2 entries"),
        ("optim.name", "adam", "config.optim.name must be one of lars, adamw, sgd"),
        ("optim.final_weight_decay", -0.1, "final_weight_decay must not be negative"),
        ("optim", [], "JSON object"),
        ("precision", "fp8", "bf16, fp32"),
        ("views", "wild", "published, inspection"),
        ("axis", "best", "paper, recommended, short"),
        ("method", "jigsaw", "method must be one of simclr, barlow_twins, byol, .*, visreg, got 'jigsaw'"),
        ("method", ["simclr"], "method must be one of simclr"),
        ("method", None, "method must be one of simclr"),
        ("encoder", "resnet50", "resnet18, vit_tiny"),
        ("encoder", 18, "config.encoder must be str"),
        ("method_config.views.views.0.jitter.hue", 0.4, "hue must lie"),
        ("method_config.temperature", 0.0, "temperature must be positive"),
    ],
)
def test_what_a_config_does_not_know_is_named(path: str, value: Any, words: str) -> None:
    data = copy.deepcopy(simclr_resnet18(image_size=96).to_json())
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    place: Any = data
    for key in parents:
        place = place[key]
    place[last] = value
    with pytest.raises(ConfigError, match=words):
        PretrainConfig.from_json(data)


@pytest.mark.parametrize("path", ["optim.lr", "method", "initial_encoder"])
def test_a_missing_key_is_named(path: str) -> None:
    data = simclr_resnet18(image_size=96).to_json()
    *parents, last = path.split(".")
    place: Any = data
    for key in parents:
        place = place[key]
    del place[last]
    with pytest.raises(ConfigError, match=last):
        PretrainConfig.from_json(data)
