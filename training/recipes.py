"""One function per published run; each returns a frozen config.

The axis `optim` holds two suspicions about the study (Otero, Mateus, Balestriero 2024): "paper" is what it states,
LARS for joint embedding and AdamW for DINO and MAE; "recommended" is what the methods' authors and later work advise.
They differ on ViT-Tiny, where LARS is known to collapse and AdamW is usual, and for DINO on ResNet-18, where its
authors advise SGD. "short" is for runs of a few thousand steps, as a CPU affords: LARS with its published rate hardly
leaves the initial weights in so few, AdamW does.

The axis `views` is about what the views of a frame share: "published" are those of the method, made for pictures with
one large object; "inspection" are milder, for frames whose defects are small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypedDict, Unpack

from training.config import Axis, Precision, PretrainConfig, Views
from training.config_json import check_choice
from training.data.augment import (
    ViewSpec,
    asymmetric_views,
    inspection_multi_crop_views,
    inspection_views,
    masked_view,
    multi_crop_views,
    symmetric_views,
)
from training.methods.barlow_twins import BarlowTwinsConfig
from training.methods.base import MethodConfig
from training.methods.byol import BYOLConfig
from training.methods.dino import DINOConfig
from training.methods.lejepa import LeJEPAConfig
from training.methods.mae import MAEConfig
from training.methods.masked_conv import MaskedConvConfig
from training.methods.simclr import SimCLRConfig
from training.methods.vicreg import VICRegConfig
from training.methods.visreg import VISRegConfig
from training.optim import OptimConfig

# Learning rates are stated for this batch and scale linearly with it (Goyal et al. 2017).
REFERENCE_BATCH = 256
# Published runs warm up over 10 epochs (MAE's over 40) of 100 and more; shorter ones over the same share.
WARMUP_EPOCHS = 10.0
MAE_WARMUP_EPOCHS = 40.0
WARMUP_SHARE = 0.1
# Local views beside the two global ones, and their least side in pixels: the smallest that both encoders take.
LOCAL_VIEWS = 4
SMALLEST_LOCAL_VIEW = 24
# DINO keeps its prototypes still for the first epoch of 100 and more; shorter runs for at most this share.
FROZEN_SHARE = 0.05

# An optimiser and its schedule, from batch size / REFERENCE_BATCH.
OptimiserRecipe = Callable[[float], OptimConfig]
ViewRecipes = Mapping[Views, Callable[[int], ViewSpec]]


class RunSettings(TypedDict, total=False):
    """What every recipe leaves to its user.

    Attributes:
        optim: see the module, "recommended" unless told.
        epochs: passes over the pack, 100 unless told.
        batch_size: frames a step, 256 unless told; learning rates scale with it.
        seed: of weights, order and views, 0 unless told.
        precision: of the forward pass, bf16 unless told.
        views: see the module, "published" unless told.
        view_size: side of the augmented views in pixels, that of the frames unless told. An encoder may be shown
            smaller views: they cost less, and since crops of them show things larger than the whole frame does, they
            bring what is learned nearer to the scale at which it is used (Touvron et al. 2019).
        initial_encoder: digest of the encoder to start from; freshly drawn weights unless told.
    """

    optim: Axis
    epochs: int
    batch_size: int
    seed: int
    precision: Precision
    views: Views
    view_size: int | None
    initial_encoder: str | None


def simclr_resnet18(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """SimCLR on ResNet-18: LARS 0.3 B/256, trust 0.02 clipped, decay 1e-4."""
    spec = _views(SYMMETRIC, image_size, run)
    return _recipe("simclr", "resnet18", SimCLRConfig(views=spec), image_size, run, _joint_resnet(0.3, 1e-4))


def simclr_vit_tiny(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """SimCLR on ViT-Tiny: AdamW 5e-4 B/256 with decay 0.05."""
    spec = _views(SYMMETRIC, image_size, run)
    return _recipe("simclr", "vit_tiny", SimCLRConfig(views=spec), image_size, run, _joint_vit(0.3, 1e-4))


def barlow_twins_resnet18(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """Barlow Twins on ResNet-18: LARS 0.3 B/256, decay 1e-4."""
    spec = _views(ASYMMETRIC, image_size, run)
    return _recipe("barlow_twins", "resnet18", BarlowTwinsConfig(views=spec), image_size, run, _joint_resnet(0.3, 1e-4))


def barlow_twins_vit_tiny(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """Barlow Twins on ViT-Tiny: AdamW 5e-4 B/256 with decay 0.05."""
    spec = _views(ASYMMETRIC, image_size, run)
    return _recipe("barlow_twins", "vit_tiny", BarlowTwinsConfig(views=spec), image_size, run, _joint_vit(0.3, 1e-4))


def byol_resnet18(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """BYOL on ResNet-18: LARS 0.45 B/256, decay 1e-6."""
    spec = _views(ASYMMETRIC, image_size, run)
    return _recipe("byol", "resnet18", BYOLConfig(views=spec), image_size, run, _joint_resnet(0.45, 1e-6))


def byol_vit_tiny(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """BYOL on ViT-Tiny: AdamW 5e-4 B/256 with decay 0.05."""
    spec = _views(ASYMMETRIC, image_size, run)
    return _recipe("byol", "vit_tiny", BYOLConfig(views=spec), image_size, run, _joint_vit(0.45, 1e-6))


def dino_resnet18(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """DINO on ResNet-18: the study's AdamW, or SGD 0.03 B/256 as its authors advise; the teacher's temperature rises
    from 0.04 to 0.07 over the first 30 %."""
    spec = _views(MULTI_CROP, image_size, run)
    settings = replace(_dino(spec, run), teacher_temperatures=(0.04, 0.07), teacher_warmup=0.3)
    optimisers: dict[Axis, OptimiserRecipe] = {
        "paper": _adamw_rising_decay,
        "recommended": lambda share: _sgd(0.03 * share),
        "short": lambda share: _adamw(2e-3 * share, 1e-4, clip=3.0),
    }
    return _recipe("dino", "resnet18", settings, image_size, run, optimisers)


def dino_vit_tiny(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """DINO on ViT-Tiny: AdamW 5e-4 B/256, decay rising from 0.04 to 0.4."""
    spec = _views(MULTI_CROP, image_size, run)
    optimisers = _on_all_axes(_adamw_rising_decay, _short_adamw_vit)
    return _recipe("dino", "vit_tiny", _dino(spec, run), image_size, run, optimisers)


def mae_vit_tiny(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """MAE on ViT-Tiny: AdamW 5e-4 B/256, betas 0.9 and 0.95, decay 0.05."""
    spec = _views(MASKED, image_size, run)
    return _recipe(
        "mae", "vit_tiny", MAEConfig(views=spec), image_size, run, _on_all_axes(_adamw_masked, _short_adamw_vit)
    )


def masked_conv_resnet18(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """Masked image modelling on ResNet-18, this project's stand-in for MAE there, with MAE's optimiser."""
    spec = _views(MASKED, image_size, run)
    optimisers = _on_all_axes(_adamw_masked, _short_adamw)
    return _recipe("masked_conv", "resnet18", MaskedConvConfig(views=spec), image_size, run, optimisers)


def vicreg_resnet18(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """VICReg on ResNet-18: LARS 0.3 B/256, decay 1e-6."""
    spec = _views(ASYMMETRIC, image_size, run)
    return _recipe("vicreg", "resnet18", VICRegConfig(views=spec), image_size, run, _joint_resnet(0.3, 1e-6))


def vicreg_vit_tiny(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """VICReg on ViT-Tiny: AdamW 5e-4 B/256 with decay 0.05."""
    spec = _views(ASYMMETRIC, image_size, run)
    return _recipe("vicreg", "vit_tiny", VICRegConfig(views=spec), image_size, run, _joint_vit(0.3, 1e-6))


def lejepa_resnet18(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """LeJEPA on ResNet-18: AdamW 5e-4 B/256 with decay 5e-4, as its authors have it for ResNets."""
    spec = _views(MULTI_CROP, image_size, run)
    optimisers = _on_all_axes(lambda share: _adamw(5e-4 * share, 5e-4), _short_adamw)
    return _recipe("lejepa", "resnet18", LeJEPAConfig(views=spec), image_size, run, optimisers)


def lejepa_vit_tiny(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """LeJEPA on ViT-Tiny: AdamW 5e-4 B/256 with decay 0.05."""
    spec = _views(MULTI_CROP, image_size, run)
    return _recipe(
        "lejepa", "vit_tiny", LeJEPAConfig(views=spec), image_size, run, _on_all_axes(_adamw_vit, _short_adamw_vit)
    )


def visreg_resnet18(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """VISReg on ResNet-18, optimised as LeJEPA."""
    spec = _views(MULTI_CROP, image_size, run)
    optimisers = _on_all_axes(lambda share: _adamw(5e-4 * share, 5e-4), _short_adamw)
    return _recipe("visreg", "resnet18", VISRegConfig(views=spec), image_size, run, optimisers)


def visreg_vit_tiny(*, image_size: int, **run: Unpack[RunSettings]) -> PretrainConfig:
    """VISReg on ViT-Tiny, optimised as LeJEPA."""
    spec = _views(MULTI_CROP, image_size, run)
    return _recipe(
        "visreg", "vit_tiny", VISRegConfig(views=spec), image_size, run, _on_all_axes(_adamw_vit, _short_adamw_vit)
    )


RECIPES: dict[tuple[str, str], Callable[..., PretrainConfig]] = {
    ("simclr", "resnet18"): simclr_resnet18,
    ("simclr", "vit_tiny"): simclr_vit_tiny,
    ("barlow_twins", "resnet18"): barlow_twins_resnet18,
    ("barlow_twins", "vit_tiny"): barlow_twins_vit_tiny,
    ("byol", "resnet18"): byol_resnet18,
    ("byol", "vit_tiny"): byol_vit_tiny,
    ("dino", "resnet18"): dino_resnet18,
    ("dino", "vit_tiny"): dino_vit_tiny,
    ("mae", "vit_tiny"): mae_vit_tiny,
    ("masked_conv", "resnet18"): masked_conv_resnet18,
    ("vicreg", "resnet18"): vicreg_resnet18,
    ("vicreg", "vit_tiny"): vicreg_vit_tiny,
    ("lejepa", "resnet18"): lejepa_resnet18,
    ("lejepa", "vit_tiny"): lejepa_vit_tiny,
    ("visreg", "resnet18"): visreg_resnet18,
    ("visreg", "vit_tiny"): visreg_vit_tiny,
}


def _recipe(
    method: str,
    encoder: str,
    method_config: MethodConfig,
    image_size: int,
    run: RunSettings,
    optimisers: Mapping[Axis, OptimiserRecipe],
) -> PretrainConfig:
    axis = run.get("optim", "recommended")
    check_choice("optim", axis, optimisers)
    epochs, batch_size = run.get("epochs", 100), run.get("batch_size", REFERENCE_BATCH)
    longest = MAE_WARMUP_EPOCHS if method == "mae" else WARMUP_EPOCHS
    optim = optimisers[axis](batch_size / REFERENCE_BATCH)
    return PretrainConfig(
        method=method,
        method_config=method_config,
        encoder=encoder,
        image_size=image_size,
        batch_size=batch_size,
        epochs=epochs,
        seed=run.get("seed", 0),
        optim=replace(optim, warmup_epochs=min(longest, WARMUP_SHARE * epochs)),
        axis=axis,
        views=run.get("views", "published"),
        precision=run.get("precision", "bf16"),
        initial_encoder=run.get("initial_encoder"),
    )


# ---- views --------------------------------------------------------------------------------------------------


def _local_size(size: int) -> int:
    """Side of local views: about half of the global ones' (96 of 224 px in DINO), in whole patches of ViT-Tiny."""
    patch = 16 if size >= 192 else 8
    return max(SMALLEST_LOCAL_VIEW, size // (2 * patch) * patch)


def _multi_crop(size: int) -> ViewSpec:
    return multi_crop_views(size, local_size=_local_size(size), local_count=LOCAL_VIEWS)


def _inspection_multi_crop(size: int) -> ViewSpec:
    return inspection_multi_crop_views(size, local_size=_local_size(size), local_count=LOCAL_VIEWS)


SYMMETRIC: ViewRecipes = {"published": symmetric_views, "inspection": inspection_views}
ASYMMETRIC: ViewRecipes = {"published": asymmetric_views, "inspection": inspection_views}
MULTI_CROP: ViewRecipes = {"published": _multi_crop, "inspection": _inspection_multi_crop}
# A masked view is mild as published.
MASKED: ViewRecipes = {"published": masked_view, "inspection": masked_view}


def _views(kinds: ViewRecipes, image_size: int, run: RunSettings) -> ViewSpec:
    views = run.get("views", "published")
    check_choice("views", views, kinds)
    size = run.get("view_size")
    return kinds[views](image_size if size is None else size)


# ---- optimisers ---------------------------------------------------------------------------------------------


def _joint_resnet(lars_lr: float, weight_decay: float) -> dict[Axis, OptimiserRecipe]:
    """Two-view methods on ResNet-18: LARS, as the study has it and their authors do; AdamW for short runs."""
    return _on_all_axes(lambda share: _lars(lars_lr * share, weight_decay), _short_adamw)


def _joint_vit(lars_lr: float, weight_decay: float) -> dict[Axis, OptimiserRecipe]:
    """Two-view methods on ViT-Tiny: the study's LARS; else AdamW."""
    return {
        "paper": lambda share: _lars(lars_lr * share, weight_decay),
        "recommended": _adamw_vit,
        "short": _short_adamw_vit,
    }


def _on_all_axes(published: OptimiserRecipe, short: OptimiserRecipe) -> dict[Axis, OptimiserRecipe]:
    """Where the study and the authors agree."""
    return {"paper": published, "recommended": published, "short": short}


def _lars(lr: float, weight_decay: float) -> OptimConfig:
    return OptimConfig(name="lars", lr=lr, weight_decay=weight_decay, warmup_epochs=0)


def _sgd(lr: float) -> OptimConfig:
    return OptimConfig(name="sgd", lr=lr, weight_decay=1e-4, warmup_epochs=0, clip_grad_norm=3.0)


def _adamw(lr: float, weight_decay: float, clip: float | None = None) -> OptimConfig:
    return OptimConfig(name="adamw", lr=lr, weight_decay=weight_decay, warmup_epochs=0, clip_grad_norm=clip)


def _adamw_vit(batch_share: float) -> OptimConfig:
    return _adamw(5e-4 * batch_share, 0.05)


def _short_adamw(batch_share: float) -> OptimConfig:
    return _adamw(2e-3 * batch_share, 1e-4)


def _short_adamw_vit(batch_share: float) -> OptimConfig:
    return _adamw(2e-3 * batch_share, 0.05, clip=3.0)


def _adamw_masked(batch_share: float) -> OptimConfig:
    return replace(_adamw(5e-4 * batch_share, 0.05), betas=(0.9, 0.95))


def _adamw_rising_decay(batch_share: float) -> OptimConfig:
    return replace(_adamw(5e-4 * batch_share, 0.04, clip=3.0), final_weight_decay=0.4)


def _dino(spec: ViewSpec, run: RunSettings) -> DINOConfig:
    # With small batches the teacher has many steps to move in; a short run has few.
    momentum = 0.996 if run.get("optim") == "short" else 0.9995
    return DINOConfig(views=spec, momentum=momentum, frozen_share=min(1 / max(1, run.get("epochs", 100)), FROZEN_SHARE))
