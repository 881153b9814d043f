"""Recipes hold the published values, scale with the batch, survive JSON, and make views that their encoder takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from serving.errors import ConfigError
from training.backbones import ENCODERS, build_encoder
from training.config import Axis, PretrainConfig, Views
from training.data.augment import View, ViewSpec
from training.methods import METHODS
from training.methods.barlow_twins import BarlowTwinsConfig
from training.methods.byol import BYOLConfig
from training.methods.dino import DINOConfig
from training.methods.lejepa import LeJEPAConfig
from training.methods.mae import MAEConfig
from training.methods.simclr import SimCLRConfig
from training.methods.vicreg import VICRegConfig
from training.methods.visreg import VISRegConfig
from training.optim import OptimConfig
from training.recipes import RECIPES, dino_resnet18, simclr_resnet18, simclr_vit_tiny

AXES: tuple[Axis, ...] = get_args(Axis)
EVERY_RECIPE = pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.__name__)


def lars(lr: float, weight_decay: float) -> OptimConfig:
    return OptimConfig(name="lars", lr=lr, weight_decay=weight_decay, warmup_epochs=10, momentum=0.9, trust=0.02)


def adamw(lr: float, weight_decay: float, **settings: Any) -> OptimConfig:
    return OptimConfig(name="adamw", lr=lr, weight_decay=weight_decay, warmup_epochs=10, **settings)


JOINT_VIT = adamw(5e-4, 0.05)
SHORT_RESNET = adamw(2e-3, 1e-4)
SHORT_VIT = adamw(2e-3, 0.05, clip_grad_norm=3.0)
MASKED = adamw(5e-4, 0.05, betas=(0.9, 0.95))
DINO_ADAMW = adamw(5e-4, 0.04, final_weight_decay=0.4, clip_grad_norm=3.0)
DINO_SGD = OptimConfig(name="sgd", lr=0.03, weight_decay=1e-4, warmup_epochs=10, momentum=0.9, clip_grad_norm=3.0)
LEJEPA_RESNET = adamw(5e-4, 5e-4)

# Of 100 epochs in batches of 256: as the study has it, as the authors advise, and for short runs.
OPTIMISERS = {
    ("simclr", "resnet18"): (lars(0.3, 1e-4), lars(0.3, 1e-4), SHORT_RESNET),
    ("simclr", "vit_tiny"): (lars(0.3, 1e-4), JOINT_VIT, SHORT_VIT),
    ("barlow_twins", "resnet18"): (lars(0.3, 1e-4), lars(0.3, 1e-4), SHORT_RESNET),
    ("barlow_twins", "vit_tiny"): (lars(0.3, 1e-4), JOINT_VIT, SHORT_VIT),
    ("byol", "resnet18"): (lars(0.45, 1e-6), lars(0.45, 1e-6), SHORT_RESNET),
    ("byol", "vit_tiny"): (lars(0.45, 1e-6), JOINT_VIT, SHORT_VIT),
    ("dino", "resnet18"): (DINO_ADAMW, DINO_SGD, adamw(2e-3, 1e-4, clip_grad_norm=3.0)),
    ("dino", "vit_tiny"): (DINO_ADAMW, DINO_ADAMW, SHORT_VIT),
    ("mae", "vit_tiny"): (MASKED, MASKED, SHORT_VIT),
    ("masked_conv", "resnet18"): (MASKED, MASKED, SHORT_RESNET),
    ("vicreg", "resnet18"): (lars(0.3, 1e-6), lars(0.3, 1e-6), SHORT_RESNET),
    ("vicreg", "vit_tiny"): (lars(0.3, 1e-6), JOINT_VIT, SHORT_VIT),
    ("lejepa", "resnet18"): (LEJEPA_RESNET, LEJEPA_RESNET, SHORT_RESNET),
    ("lejepa", "vit_tiny"): (JOINT_VIT, JOINT_VIT, SHORT_VIT),
    ("visreg", "resnet18"): (LEJEPA_RESNET, LEJEPA_RESNET, SHORT_RESNET),
    ("visreg", "vit_tiny"): (JOINT_VIT, JOINT_VIT, SHORT_VIT),
}


def test_every_method_has_a_recipe_on_every_encoder_that_it_is_defined_for() -> None:
    assert set(RECIPES) == set(OPTIMISERS)
    missing = {(method, encoder) for method in METHODS for encoder in ENCODERS} - set(RECIPES)
    assert missing == {("mae", "resnet18"), ("masked_conv", "vit_tiny")}
    for (method, encoder), recipe in RECIPES.items():
        assert recipe.__name__ == f"{method}_{encoder}"
        config = recipe(image_size=96)
        assert (config.method, config.encoder, config.image_size) == (method, encoder, 96)
        assert (config.axis, config.views, config.precision) == ("recommended", "published", "bf16")
        assert (config.epochs, config.batch_size, config.seed, config.initial_encoder) == (100, 256, 0, None)


@pytest.mark.parametrize("place", OPTIMISERS, ids="_".join)
def test_optimisers_are_as_published(place: tuple[str, str]) -> None:
    for axis, expected in zip(AXES, OPTIMISERS[place], strict=True):
        config = RECIPES[place](image_size=112, optim=axis)
        assert (config.axis, config.optim) == (axis, expected)


@pytest.mark.parametrize("encoder", ["resnet18", "vit_tiny"])
def test_methods_are_set_as_published(encoder: str) -> None:
    def settings(method: str) -> Any:
        config = RECIPES[method, encoder](image_size=112).method_config
        # The views have a test of their own.
        return config, {"views": config.views}

    for method, kind, expected in (
        ("simclr", SimCLRConfig, {"temperature": 0.2, "projector": (2048, 128)}),
        (
            "barlow_twins",
            BarlowTwinsConfig,
            {"redundancy_weight": 5e-3, "scale": 0.1, "projector": (2048, 2048, 2048)},
        ),
        ("byol", BYOLConfig, {"momentum": 0.99, "projector": (4096, 256), "predictor": (4096, 256)}),
        (
            "vicreg",
            VICRegConfig,
            {"invariance": 25.0, "variance": 25.0, "covariance": 1.0, "projector": (2048, 2048, 2048)},
        ),
        ("lejepa", LeJEPAConfig, {"weight": 0.05, "directions": 1024, "projector": (2048, 2048, 128)}),
        (
            "visreg",
            VISRegConfig,
            {"weight": 0.6, "scale": 1.0, "shape": 1.0, "centre": 1.0, "directions": 1024}
            | {"projector": (2048, 2048, 128)},
        ),
    ):
        config, views = settings(method)
        assert config == kind(**expected, **views)


def test_mae_hides_three_quarters_and_decodes_with_a_small_transformer() -> None:
    config = RECIPES["mae", "vit_tiny"](image_size=112).method_config
    assert config == MAEConfig(mask_ratio=0.75, decoder_width=192, decoder_depth=4, decoder_heads=3, views=config.views)


@pytest.mark.parametrize(
    ("encoder", "temperatures", "warmup"), [("resnet18", (0.04, 0.07), 0.3), ("vit_tiny", (0.04, 0.04), 0.0)]
)
def test_dino_warms_the_teacher_up_on_the_resnet_alone(
    encoder: str, temperatures: tuple[float, float], warmup: float
) -> None:
    config = RECIPES["dino", encoder](image_size=112).method_config
    assert config == DINOConfig(
        student_temperature=0.1,
        teacher_temperatures=temperatures,
        teacher_warmup=warmup,
        centre_momentum=0.9,
        head=(2048, 2048, 256),
        prototypes=4096,
        frozen_share=0.01,
        momentum=0.9995,
        views=config.views,
    )
    assert RECIPES["dino", encoder](image_size=112, optim="short").method_config.momentum == 0.996


@pytest.mark.parametrize(("epochs", "share"), [(200, 0.005), (100, 0.01), (20, 0.05), (3, 0.05)])
def test_dino_keeps_its_prototypes_for_an_epoch_but_no_more_than_a_twentieth(epochs: int, share: float) -> None:
    config = dino_resnet18(image_size=112, epochs=epochs).method_config
    assert isinstance(config, DINOConfig)
    assert config.frozen_share == pytest.approx(share)


def test_the_axis_changes_nothing_but_the_optimiser_and_for_short_runs_dinos_momentum() -> None:
    for recipe in RECIPES.values():
        paper, recommended, short = (recipe(image_size=112, optim=axis) for axis in AXES)
        assert replace(paper, optim=recommended.optim, axis="recommended") == recommended
        if isinstance(short.method_config, DINOConfig):
            short = replace(short, method_config=replace(short.method_config, momentum=0.9995))
        assert replace(short, optim=recommended.optim, axis="recommended") == recommended


@EVERY_RECIPE
@pytest.mark.parametrize("axis", AXES)
def test_the_rate_is_proportional_to_the_batch(recipe: Callable[..., PretrainConfig], axis: Axis) -> None:
    usual, small = (recipe(image_size=112, optim=axis, batch_size=size).optim for size in (256, 64))
    assert small.lr == pytest.approx(usual.lr / 4)
    assert replace(small, lr=usual.lr) == usual


@pytest.mark.parametrize(
    ("epochs", "usual", "mae"), [(10, 1, 1), (20, 2, 2), (100, 10, 10), (200, 10, 20), (800, 10, 40)]
)
def test_warm_up_is_ten_epochs_or_forty_of_mae_or_a_tenth_of_the_run(epochs: int, usual: float, mae: float) -> None:
    for (method, _), recipe in RECIPES.items():
        for axis in AXES:
            warmup = recipe(image_size=112, epochs=epochs, optim=axis).optim.warmup_epochs
            assert warmup == pytest.approx(mae if method == "mae" else usual)


KINDS = {
    "simclr": "symmetric",
    "barlow_twins": "asymmetric",
    "byol": "asymmetric",
    "vicreg": "asymmetric",
    "dino": "multi-crop",
    "lejepa": "multi-crop",
    "visreg": "multi-crop",
    "mae": "masked",
    "masked_conv": "masked",
}


@pytest.mark.parametrize("place", RECIPES, ids="_".join)
def test_views_are_as_published(place: tuple[str, str]) -> None:
    views = RECIPES[place](image_size=112).method_config.views.views
    seen = [(view.count, view.size, view.crop_scale, view.blur_p, view.solarise_p) for view in views]
    whole, large, part = (0.08, 1.0), (0.4, 1.0), (0.05, 0.4)
    expected = {
        "symmetric": [(2, 112, whole, 0.5, 0.0)],
        "asymmetric": [(1, 112, whole, 1.0, 0.0), (1, 112, whole, 0.1, 0.2)],
        "multi-crop": [(1, 112, large, 1.0, 0.0), (1, 112, large, 0.1, 0.2), (4, 56, part, 0.5, 0.0)],
        "masked": [(1, 112, (0.2, 1.0), 0.0, 0.0)],
    }
    assert seen == expected[KINDS[place[0]]]


@pytest.mark.parametrize("place", RECIPES, ids="_".join)
def test_inspection_views_are_as_many_and_milder(place: tuple[str, str]) -> None:
    published, inspection = (RECIPES[place](image_size=96, views=views) for views in get_args(Views))
    assert replace(inspection, views="published", method_config=published.method_config) == published
    strong, mild = (config.method_config.views for config in (published, inspection))
    if KINDS[place[0]] == "masked":
        assert mild == strong
        return
    assert [view.size for view in mild.views if view.count > 2] == [
        view.size for view in strong.views if view.count > 2
    ]
    for view in mild.views:
        assert view.jitter.hue == 0.02
        assert view.grey_p == 0.1
        assert view.solarise_p == 0
        assert view.crop_scale[0] > min(other.crop_scale[0] for other in strong.views)


def test_simclr_on_resnet18_is_as_published() -> None:
    config = simclr_resnet18(image_size=112, batch_size=512, epochs=200)
    assert config.optim.name == "lars"
    assert config.optim.lr == pytest.approx(0.6)
    assert (config.optim.weight_decay, config.optim.trust, config.optim.warmup_epochs) == (1e-4, 0.02, 10)
    assert config.to_json()["method_config"]["temperature"] == 0.2
    assert config.to_json()["method_config"]["projector"] == [2048, 128]


@EVERY_RECIPE
def test_views_may_be_smaller_than_frames(recipe: Callable[..., PretrainConfig]) -> None:
    config = recipe(image_size=112, view_size=64)
    assert config.image_size == 112
    sizes = [view.size for view in config.method_config.views.views]
    assert max(sizes) == 64
    assert min(sizes) in (64, 32)
    assert recipe(image_size=112, view_size=112) == recipe(image_size=112, view_size=None) == recipe(image_size=112)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(("image_size", "view_size"), [(32, None), (112, None), (112, 40), (208, None), (240, 192)])
def test_every_recipe_makes_views_that_its_encoder_takes(encoder: str, image_size: int, view_size: int | None) -> None:
    # Shapes are all that is looked at, so nothing is allocated.
    with torch.device("meta"):
        built = build_encoder(encoder, image_size=image_size)
        for (method, name), recipe in RECIPES.items():
            if name == encoder:
                config = recipe(image_size=image_size, view_size=view_size).method_config
                for view in config.views.views:
                    built.check_view_size(view.size)
                assert METHODS[method](built, config).views == config.views


@EVERY_RECIPE
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("views", get_args(Views))
def test_a_config_survives_json(recipe: Callable[..., PretrainConfig], axis: Axis, views: Views) -> None:
    config = recipe(
        image_size=96,
        epochs=3,
        batch_size=64,
        seed=7,
        optim=axis,
        views=views,
        view_size=64,
        precision="fp32",
        initial_encoder="0f" * 32,
    )
    assert (config.epochs, config.batch_size, config.seed, config.precision) == (3, 64, 7, "fp32")
    assert (config.axis, config.views, config.initial_encoder) == (axis, views, "0f" * 32)
    assert PretrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@EVERY_RECIPE
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optim": "best"}, "optim must be one of paper, recommended, short, got 'best'"),
        ({"views": "wild"}, "views must be one of published, inspection, got 'wild'"),
        ({"precision": "fp8"}, "precision must be one of bf16, fp32, got 'fp8'"),
        ({"epochs": 0}, "epochs and image_size at least 1"),
        ({"view_size": 0}, "size and count must be positive"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_what_a_recipe_does_not_know_is_refused_with_the_choices(
    recipe: Callable[..., PretrainConfig], settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe(image_size=96, **settings)


def test_the_axis_of_the_study_is_lars_on_vit_tiny() -> None:
    paper, recommended = (simclr_vit_tiny(image_size=112, optim=axis) for axis in ("paper", "recommended"))
    assert (paper.optim.name, recommended.optim.name) == ("lars", "adamw")


@pytest.mark.parametrize("method", ["simclr", "barlow_twins", "byol", "vicreg"])
def test_two_view_methods_take_two_views(method: str) -> None:
    config = RECIPES[method, "resnet18"](image_size=96).method_config
    with pytest.raises(ConfigError, match="two views"):
        replace(config, views=ViewSpec(views=(View(size=96, count=3),)))
