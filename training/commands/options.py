"""What several training commands share on the command line."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click
import torch

from serving.errors import ConfigError, DeviceError


def typed_command() -> str:
    """The command as it was typed, for the record of what it made."""
    return shlex.join(["pipeprobe-train", *sys.argv[1:]])


def _checked_device(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if value == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(value)
    except RuntimeError as error:
        raise ConfigError(f"{value!r} is not a device; use auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"training runs on cpu and cuda, not on {value}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"{value} was asked for, and torch sees {torch.cuda.device_count()} CUDA devices")
    return value


def device_option(function: Any) -> Any:
    """Add `--device`, checked: what is asked for is there, or the command stops."""
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        callback=_checked_device,
        help="auto, cpu, cuda, or one of several GPUs: cuda:1.",
    )(function)


def _named_paths(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not name or not equals or not path:
            raise ConfigError(f"--evaluate takes NAME=PACK, got {value!r}")
        if name in named:
            raise ConfigError(f"--evaluate names {name!r} twice: give each pack a name of its own")
        named[name] = Path(path)
    return named


def evaluate_option(function: Any) -> Any:
    """Add `--evaluate NAME=PACK`, repeatable; the command gets the packs' folders by name."""
    return click.option(
        "--evaluate",
        multiple=True,
        metavar="NAME=PACK",
        callback=_named_paths,
        help="Measure on another pack, too; may be repeated.",
    )(function)
