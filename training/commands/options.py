"""What several training commands share on the command line."""

from __future__ import annotations

import shlex
import sys
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
