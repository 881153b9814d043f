"""Metrics that are looked up when somebody asks for them: the workers' processes, and the GPUs where there are any.

Nothing here needs the workers to have counted anything, so one worker answers for all of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

logger = logging.getLogger(__name__)

GPU_METRICS = {
    "pipeprobe_gpu_memory_used_bytes": "GPU memory in use, by anybody",
    "pipeprobe_gpu_memory_bytes": "GPU memory that there is",
    "pipeprobe_gpu_busy_ratio": "Share of the last moments in which the GPU ran something",
}
_UTILISATION_PERCENT = 100


class ProcessCollector:
    """Memory, CPU time and open files of the worker processes together."""

    def __init__(self, worker_ids: Callable[[], Sequence[int]]) -> None:
        self._worker_ids = worker_ids

    def collect(self) -> Iterator[Metric]:
        found = [usage for pid in self._worker_ids() if (usage := _usage(pid)) is not None]
        resident, cpu_s, files, started = zip(*found, strict=True) if found else ((), (), (), ())
        yield GaugeMetricFamily("pipeprobe_workers", "Worker processes that are alive", value=len(found))
        yield GaugeMetricFamily(
            "pipeprobe_resident_memory_bytes", "Resident memory of all workers together", value=sum(resident)
        )
        yield GaugeMetricFamily("pipeprobe_open_files", "Open file descriptors of all workers", value=sum(files))
        yield CounterMetricFamily("pipeprobe_cpu_seconds", "CPU time of the living workers", value=sum(cpu_s))
        yield GaugeMetricFamily(
            "pipeprobe_start_time_seconds",
            "Unix time at which the youngest worker started; a change is a restart",
            value=max(started, default=0),
        )


class GpuCollector:
    """Memory and load of the GPUs that this process may use, by NVML; nothing on a machine without one.

    GPUs are named as the service names its devices, `cuda:0` being the first that CUDA_VISIBLE_DEVICES leaves.
    On a machine of unlike GPUs that needs CUDA_DEVICE_ORDER=PCI_BUS_ID, NVML's order.
    """

    def __init__(self, in_use: Callable[[], bool]) -> None:
        self._in_use = in_use
        self._handles: list[tuple[str, Any]] | None = None

    def collect(self) -> Iterator[Metric]:
        if not self._in_use():
            return
        if self._handles is None:
            self._handles = _open_gpus()
        used, size, busy = (GaugeMetricFamily(name, text, labels=["device"]) for name, text in GPU_METRICS.items())
        for device, handle in self._handles:
            import pynvml

            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            used.add_metric([device], memory.used)
            size.add_metric([device], memory.total)
            busy.add_metric([device], pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / _UTILISATION_PERCENT)
        if self._handles:
            yield from (used, size, busy)


def visible_gpus(variable: str | None, uuids: Sequence[str]) -> list[int]:
    """Positions, among the machine's GPUs `uuids`, of those that CUDA_VISIBLE_DEVICES leaves, in its order.

    As CUDA reads it: numbers or beginnings of UUIDs, up to the first that names no GPU.
    """
    if variable is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for part in (part.strip() for part in variable.split(",")):
        if part.isdigit() and int(part) < len(uuids):
            found.append(int(part))
            continue
        named = [index for index, uuid in enumerate(uuids) if part and uuid.startswith(part)]
        if len(named) != 1:
            break
        found += named
    return found


def _open_gpus() -> list[tuple[str, Any]]:
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        uuids = [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    except ImportError:
        logger.warning("GPU memory is not measured: nvidia-ml-py is missing; pip install 'pipeprobe[gpu]'")
        return []
    except pynvml.NVMLError as error:
        logger.warning("GPU memory is not measured: NVML says %s", error)
        return []
    chosen = visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), uuids)
    return [(f"cuda:{position}", handles[index]) for position, index in enumerate(chosen)]


def _usage(pid: int) -> tuple[int, float, int, float] | None:
    """Resident bytes, CPU seconds, open files and start time of a process; None if it has gone."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            cpu = process.cpu_times()
            return process.memory_info().rss, cpu.user + cpu.system, process.num_fds(), process.create_time()
    except psutil.Error:
        return None
