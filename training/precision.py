"""In which precision forward passes are computed: bf16 where the hardware can, float32 elsewhere.

Where a processor has no instructions for it, bf16 is emulated: on an AMD EPYC without AVX-512 a matrix product of 1024
x 1024 took 90 times as long as in float32, a 3 x 3 convolution 5 times.
"""

from __future__ import annotations

from pathlib import Path

import torch

from training.config import Precision

_CPUINFO = Path("/proc/cpuinfo")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def fastest_precision(device: str, cpuinfo: Path = _CPUINFO) -> Precision:
    """bf16 on a GPU and on processors with instructions for it, else fp32."""
    if device.startswith("cuda"):
        return "bf16"
    flags = cpuinfo.read_text(errors="replace").split() if cpuinfo.is_file() else []
    return "bf16" if _BF16_FLAGS & set(flags) else "fp32"


def forward_in(precision: Precision, device: torch.device | str) -> torch.autocast:
    """The context of a forward pass; weights, losses and optimiser stay float32."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16")
