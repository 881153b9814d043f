"""Recipes hold the published values; configs survive JSON and refuse what they do not know."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from serving.errors import ConfigError
from training.data.augment import View, ViewSpec
from training.config import PretrainConfig
from training.recipes import RECIPES, simclr_resnet18, simclr_vit_tiny


def test_simclr_on_resnet18_is_as_published() -> None:
    config = simclr_resnet18(image_size=112, batch_size=512, epochs=200)
    assert config.optim.name == "lars"
    assert config.optim.lr == pytest.approx(0.6)
    assert (config.optim.weight_decay, config.optim.trust, config.optim.warmup_epochs) == (1e-4, 0.02, 10)
    assert config.to_json()["method_config"]["temperature"] == 0.2
    assert config.to_json()["method_config"]["projector"] == [2048, 128]


def test_the_axis_changes_the_optimiser_of_the_vit_alone() -> None:
    paper, recommended = (simclr_vit_tiny(image_size=112, optim=axis) for axis in ("paper", "recommended"))
    assert (paper.optim.name, recommended.optim.name) == ("lars", "adamw")
    assert (recommended.optim.lr, recommended.optim.weight_decay) == (5e-4, 0.05)
    assert replace(paper, optim=recommended.optim, axis="recommended") == recommended
    resnets = [simclr_resnet18(image_size=112, optim=axis) for axis in ("paper", "recommended")]
    assert resnets[0].optim == resnets[1].optim


def test_the_short_axis_takes_adamw() -> None:
    for recipe in RECIPES.values():
        assert recipe(image_size=112, optim="short").optim.name == "adamw"
    assert simclr_resnet18(image_size=112, batch_size=64, optim="short").optim.lr == pytest.approx(5e-4)


def test_views_may_be_smaller_than_frames_for_the_resnet_alone() -> None:
    config = simclr_resnet18(image_size=112, view_size=64)
    assert (config.image_size, [view.size for view in config.method_config.views.views]) == (112, [64])
    assert simclr_vit_tiny(image_size=112, view_size=112) == simclr_vit_tiny(image_size=112)
    with pytest.raises(ConfigError, match="own size, 112 px, not 64 px"):
        simclr_vit_tiny(image_size=112, view_size=64)


def test_inspection_views_crop_and_jitter_less() -> None:
    published, inspection = (simclr_resnet18(image_size=96, views=views) for views in ("published", "inspection"))
    (strong,), (mild,) = (config.method_config.views.views for config in (published, inspection))
    assert (strong.crop_scale[0], mild.crop_scale[0]) == (0.08, 0.2)
    assert mild.jitter.brightness < strong.jitter.brightness
    assert replace(inspection, views="published", method_config=published.method_config) == published


def test_short_runs_warm_up_over_a_tenth() -> None:
    assert simclr_resnet18(image_size=112, epochs=20).optim.warmup_epochs == pytest.approx(2)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.__name__)
@pytest.mark.parametrize("axis", ["paper", "recommended", "short"])
def test_a_config_survives_json(recipe: Any, axis: str) -> None:
    config = recipe(image_size=96, epochs=3, batch_size=64, seed=7, optim=axis, precision="fp32")
    assert PretrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


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
        ("seed", -1, "seed must not be negative"),
        ("optim.lr", None, "config.optim.lr must be float"),
        ("optim.betas", [0.9], "2 entries"),
        ("optim", [], "JSON object"),
        ("precision", "fp8", "bf16, fp32"),
        ("views", "wild", "published, inspection"),
        ("axis", "best", "paper, recommended, short"),
        ("method", "jigsaw", "simclr"),
        ("encoder", "resnet50", "resnet18"),
        ("method_config.views.views.0.jitter.hue", 0.4, "hue must lie"),
        ("method_config.temperature", 0.0, "temperature must be positive"),
    ],
)
def test_what_a_config_does_not_know_is_named(path: str, value: Any, words: str) -> None:
    data = copy.deepcopy(simclr_resnet18(image_size=96).to_json())
    *parents, last = path.split(".")
    place: Any = data
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[last] = value
    with pytest.raises(ConfigError, match=words):
        PretrainConfig.from_json(data)


def test_a_missing_key_is_named() -> None:
    data = simclr_resnet18(image_size=96).to_json()
    del data["optim"]["lr"]
    with pytest.raises(ConfigError, match="missing keys \\['lr'\\]"):
        PretrainConfig.from_json(data)


def test_simclr_takes_two_views() -> None:
    config = simclr_resnet18(image_size=96).method_config
    with pytest.raises(ConfigError, match="two views"):
        replace(config, views=ViewSpec(views=(View(size=96, count=3),)))
