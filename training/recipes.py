"""One function per published run; each returns a frozen config.

The axis `optim` holds two suspicions about the study (Otero, Mateus, Balestriero 2024): "paper" is what it states,
"recommended" is what the methods' authors and later work advise. They differ for SimCLR on ViT-Tiny, where the
study's LARS is known to collapse and AdamW is usual. "short" is for runs of a few thousand steps, as a CPU affords:
LARS with its published rate hardly leaves the initial weights in so few, AdamW does.

The axis `views` is about what two views of a frame share: "published" are those of the method, made for pictures with
one large object; "inspection" are milder, for frames whose defects are small.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Literal, TypedDict, Union, Unpack, get_args, get_origin, get_type_hints

from serving.errors import ConfigError
from training.backbones import ENCODERS
from training.data.augment import ViewSpec, inspection_views, symmetric_views
from training.methods import METHODS, MethodConfig
from training.methods.simclr import SimCLRConfig
from training.optim import OptimConfig

Axis = Literal["paper", "recommended", "short"]
Views = Literal["published", "inspection"]
Precision = Literal["bf16", "fp32"]

# Learning rates are stated for this batch and scale linearly with it (Goyal et al. 2017).
REFERENCE_BATCH = 256
# Published runs warm up over 10 epochs of 100 and more; shorter ones over the same share.
WARMUP_EPOCHS = 10.0
WARMUP_SHARE = 0.1

# The greatest learning rate and its schedule, from batch size / REFERENCE_BATCH and the epochs of warm-up.
OptimiserRecipe = Callable[[float, float], OptimConfig]

SYMMETRIC_VIEWS: dict[Views, Callable[[int], ViewSpec]] = {
    "published": symmetric_views,
    "inspection": inspection_views,
}


class RunSettings(TypedDict, total=False):
    """What every recipe leaves to its user.

    Attributes:
        epochs: passes over the pack, 100 unless told.
        batch_size: frames a step, 256 unless told; learning rates scale with it.
        seed: of weights, order and views, 0 unless told.
        precision: of the forward pass, bf16 unless told.
        views: see the module, "published" unless told.
        view_size: side of the augmented views in pixels, that of the frames unless told. A convolutional encoder
            may be shown smaller views: they cost less, and since crops of them show things larger than the whole
            frame does, they bring what is learned nearer to the scale at which it is used (Touvron et al. 2019).
    """

    epochs: int
    batch_size: int
    seed: int
    precision: Precision
    views: Views
    view_size: int | None


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides what a pretraining run computes, but for its frames.

    Attributes:
        method: key of `METHODS`.
        method_config: that method's settings, views included.
        encoder: key of `ENCODERS`.
        image_size: side of the frames that the encoder takes, in pixels.
        batch_size: frames a step (each gives several views).
        epochs: passes over the pack.
        seed: of weights, order, views and whatever the method draws.
        optim: optimiser and schedule.
        axis: which of the recipe's optimiser settings it is.
        views: which of the recipe's views they are.
        precision: of the forward pass; weights, losses and optimiser are float32 always.
    """

    method: str
    method_config: MethodConfig
    encoder: str
    image_size: int
    batch_size: int
    epochs: int
    seed: int
    optim: OptimConfig
    axis: Axis
    views: Views
    precision: Precision

    def __post_init__(self) -> None:
        _check_choice("method", self.method, METHODS)
        _check_choice("encoder", self.encoder, ENCODERS)
        _check_choice("axis", self.axis, get_args(Axis))
        _check_choice("views", self.views, get_args(Views))
        _check_choice("precision", self.precision, get_args(Precision))
        if type(self.method_config) is not METHODS[self.method].Config:
            raise ConfigError(f"{self.method} does not take a {type(self.method_config).__name__}")
        if self.batch_size < 2 or self.epochs < 1 or self.image_size < 1:
            raise ConfigError(
                "batch_size must be at least 2, epochs and image_size at least 1, got "
                f"{self.batch_size}, {self.epochs} and {self.image_size}"
            )
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}")

    def to_json(self) -> dict[str, Any]:
        """As JSON values; `from_json` gives an equal config."""
        return _encode(asdict(self))  # type: ignore[no-any-return] # a mapping stays one

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PretrainConfig:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: a key is unknown or missing, or a value of the wrong kind or out of range.
        """
        method = data.get("method")
        _check_choice("method", method, METHODS)
        kinds = {"method_config": METHODS[str(method)].Config}
        config: PretrainConfig = _decode_fields(PretrainConfig, data, "config", kinds)
        return config


def simclr_resnet18(*, image_size: int, optim: Axis = "recommended", **run: Unpack[RunSettings]) -> PretrainConfig:
    """SimCLR on ResNet-18: LARS 0.3 B/256, trust 0.02 clipped, decay 1e-4, on the axes "paper" and "recommended";
    AdamW 2e-3 B/256, decay 1e-4, on "short"."""
    return _simclr("resnet18", image_size, optim, run, {"paper": _lars, "recommended": _lars, "short": _short_adamw})


def simclr_vit_tiny(*, image_size: int, optim: Axis = "recommended", **run: Unpack[RunSettings]) -> PretrainConfig:
    """SimCLR on ViT-Tiny: AdamW 5e-4 B/256 with decay 0.05; the study's LARS on the axis "paper".

    Raises:
        ConfigError: `view_size` differs from `image_size`: its position embedding is for one size.
    """
    if run.get("view_size") not in (None, image_size):
        raise ConfigError(f"vit_tiny takes views of the frames' own size, {image_size} px, not {run['view_size']} px")
    return _simclr("vit_tiny", image_size, optim, run, {"paper": _lars, "recommended": _adamw, "short": _adamw})


RECIPES: dict[tuple[str, str], Callable[..., PretrainConfig]] = {
    ("simclr", "resnet18"): simclr_resnet18,
    ("simclr", "vit_tiny"): simclr_vit_tiny,
}


def _simclr(
    encoder: str, image_size: int, axis: Axis, run: RunSettings, optimisers: Mapping[Axis, OptimiserRecipe]
) -> PretrainConfig:
    _check_choice("optim", axis, optimisers)
    epochs, batch_size = run.get("epochs", 100), run.get("batch_size", REFERENCE_BATCH)
    views = run.get("views", "published")
    _check_choice("views", views, SYMMETRIC_VIEWS)
    return PretrainConfig(
        method="simclr",
        method_config=SimCLRConfig(views=SYMMETRIC_VIEWS[views](run.get("view_size") or image_size)),
        encoder=encoder,
        image_size=image_size,
        batch_size=batch_size,
        epochs=epochs,
        seed=run.get("seed", 0),
        optim=optimisers[axis](batch_size / REFERENCE_BATCH, _warmup_epochs(epochs)),
        axis=axis,
        views=views,
        precision=run.get("precision", "bf16"),
    )


def _lars(batch_share: float, warmup_epochs: float) -> OptimConfig:
    return OptimConfig(name="lars", lr=0.3 * batch_share, weight_decay=1e-4, warmup_epochs=warmup_epochs)


def _adamw(batch_share: float, warmup_epochs: float) -> OptimConfig:
    return OptimConfig(name="adamw", lr=5e-4 * batch_share, weight_decay=0.05, warmup_epochs=warmup_epochs)


def _short_adamw(batch_share: float, warmup_epochs: float) -> OptimConfig:
    return OptimConfig(name="adamw", lr=2e-3 * batch_share, weight_decay=1e-4, warmup_epochs=warmup_epochs)


def _warmup_epochs(epochs: int) -> float:
    return min(WARMUP_EPOCHS, WARMUP_SHARE * epochs)


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _encode(value: Any) -> Any:
    """Tuples as lists, so that what is written equals what is read back."""
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return value


def _decode_fields(kind: Any, data: Any, where: str, kinds: Mapping[str, Any] | None = None) -> Any:
    """Build the dataclass `kind`; `kinds` overrides the declared types of some of its fields."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a JSON object, got {data!r}")
    hints = {**get_type_hints(kind), **(kinds or {})}
    names = [field.name for field in fields(kind)]
    unknown, missing = sorted(set(data) - set(names)), sorted(set(names) - set(data))
    if unknown or missing:
        raise ConfigError(f"{where}: unknown keys {unknown}, missing keys {missing}")
    return kind(**{name: _decode(hints[name], data[name], f"{where}.{name}") for name in names})


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _decode_fields(kind, value, where)
    if origin is Literal:
        _check_choice(where, value, arguments)
        return value
    if origin in (Union, types.UnionType):
        inner = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _decode(inner, value, where)
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where} must be {kind.__name__}, got {value!r}")
    return value


def _decode_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{where} must be a JSON array, got {value!r}")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ConfigError(f"{where} must have {len(arguments)} entries, got {len(value)}")
    return tuple(
        _decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(arguments, value, strict=True))
    )
