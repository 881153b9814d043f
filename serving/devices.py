"""Which processor scores: device names, cores that are really available, ONNX Runtime providers."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from serving.errors import DeviceError

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A parsed device name; `index` counts CUDA devices and is 0 on the CPU."""

    kind: Literal["cpu", "cuda"]
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.index == 0 else f"{self.kind}:{self.index}"


def parse_device(name: str) -> Device:
    """`cpu`, `cuda` or `cuda:1`; anything else is a `DeviceError`."""
    match = re.fullmatch(r"(cpu)|cuda(?::(\d{1,3}))?", name)
    if match is None:
        raise DeviceError(f"unknown device {name[:50]!r}; use cpu, cuda or cuda:INDEX")
    if match.group(1):
        return Device(kind="cpu")
    return Device(kind="cuda", index=int(match.group(2) or 0))


def available_cores(cgroup: Path = _CGROUP) -> int:
    """Cores that this process may use: its affinity, cut down to a container's CPU quota, at least 1.

    ONNX Runtime sizes itself to the host instead, which in a container with a quota means constant
    throttling.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_cores(cgroup)
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def _quota_cores(cgroup: Path) -> float | None:
    """CPU quota in cores, from cgroup v2 or v1; None where there is none."""
    try:
        if (cgroup / "cpu.max").is_file():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        return None if quota == "max" or int(quota) < 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime, or a `DeviceError` that says how to install it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"ONNX Runtime cannot be imported ({error}); install it: pip install 'pipeprobe[serve]'"
        ) from error
    module: ModuleType = onnxruntime
    return module


def providers_for(device: Device, *, cuda_graphs: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """ONNX Runtime providers, first choice first; the CPU stays in the list for the odd shape operation."""
    cpu: tuple[str, dict[str, Any]] = ("CPUExecutionProvider", {})
    if device.kind == "cpu":
        return [cpu]
    options = {
        "device_id": device.index,
        # fp32 answers its golden outputs within 1e-4, which TF32's 10-bit mantissa does not.
        "use_tf32": 0,
        # Doubling the arena would take memory from other processes on the device for batches that never come.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if cuda_graphs:
        options["enable_cuda_graph"] = 1
    return [("CUDAExecutionProvider", options), cpu]


def load_cuda_libraries(onnxruntime: ModuleType, device: Device) -> None:
    """Make pip-installed CUDA libraries visible; `DeviceError` if this build has no CUDA at all."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise DeviceError(
            f"{device} was asked for, but the ONNX Runtime installed here has no CUDA support; "
            "install the one that has: pip uninstall onnxruntime; pip install 'pipeprobe[serve,gpu]'"
        )
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
