"""Self-supervised methods, one a file."""

from __future__ import annotations

from training.methods.base import Method, MethodConfig
from training.methods.simclr import SimCLR

__all__ = ["METHODS", "Method", "MethodConfig"]

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
}
