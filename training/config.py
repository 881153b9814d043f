"""The config of a pretraining run: everything that decides what it computes, but for its frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from serving.errors import ConfigError
from training.backbones import ENCODERS
from training.config_json import check_choice, decode_config, encode_config
from training.methods import METHODS, MethodConfig
from training.optim import OptimConfig

Axis = Literal["paper", "recommended", "short"]
Views = Literal["published", "inspection"]
Precision = Literal["bf16", "fp32"]


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
        initial_encoder: digest of the encoder that the run starts from (`training.features.encoder_digest`); null for
            freshly drawn weights.
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
    initial_encoder: str | None = None

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_choice("encoder", self.encoder, ENCODERS)
        check_choice("axis", self.axis, get_args(Axis))
        check_choice("views", self.views, get_args(Views))
        check_choice("precision", self.precision, get_args(Precision))
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
        return encode_config(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PretrainConfig:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: a key is unknown or missing, or a value of the wrong kind or out of range.
        """
        method = data.get("method")
        check_choice("method", method, METHODS)
        kinds = {"method_config": METHODS[str(method)].Config}
        config: PretrainConfig = decode_config(PretrainConfig, data, kinds=kinds)
        return config
