"""`torch.compile` for the encoders of a method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from serving.errors import ConfigError
from training.backbones import Encoder
from training.sync_norm import SynchronisedBatchNorm

# What methods call of an encoder, beside the module itself, which calls the first of them.
ENTRIES = ("feature_map", "encode")


def compile_encoders(method: nn.Module, device: torch.device) -> None:
    """Compile the forward passes of all encoders in `method`, averaged copies too, in place.

    Heads and losses are small beside them, and a loss that gathers or draws numbers cannot be compiled as a whole.
    Parameters, buffers and their names stay as they are. Each size of view is compiled when it is first seen.

    Raises:
        ConfigError: nothing can be compiled on this machine.
    """
    _try_compiler(device)
    for module in method.modules():
        if isinstance(module, Encoder):
            for name in ENTRIES:
                if hasattr(module, name):
                    setattr(module, name, torch.compile(getattr(module, name), dynamic=False))
        elif isinstance(module, SynchronisedBatchNorm):
            # Exchanges between processes stay outside of what is compiled.
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign,no-untyped-call] # torch's


@contextmanager
def uncompiled(compiled: bool) -> Iterator[None]:
    """Run what was compiled as it was written, for passes too rare to be worth compiling."""
    if not compiled:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _try_compiler(device: torch.device) -> None:
    """Compile something small, so that a machine without a compiler is found out before the run begins."""
    try:
        torch.compile(_halved)(torch.ones(2, device=device))
    except Exception as error:  # a missing compiler shows in many ways, none of them documented
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(
            f"torch.compile does not work on {device} here: {reason.strip()}. Leave --compile out, or install what it "
            "needs: a C++ compiler for the CPU (on Debian and Ubuntu: apt-get install g++), Triton for GPUs"
        ) from error


def _halved(x: Tensor) -> Tensor:
    return x / 2
