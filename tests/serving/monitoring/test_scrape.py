"""Numbers that are looked up when the page is made."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import psutil
import pytest

from serving.monitoring.scrape import GPU_METRICS, GpuCollector, ProcessCollector, visible_gpus

UUIDS = ("GPU-aaaa1111", "GPU-aabb2222", "GPU-cccc3333")


def found(collector: ProcessCollector | GpuCollector) -> dict[str, float]:
    return {sample.name: sample.value for family in collector.collect() for sample in family.samples}


def test_processes_are_added_up_and_dead_ones_left_out() -> None:
    dead = 2**22 + 1
    one, two = (found(ProcessCollector(lambda ids=ids: ids)) for ids in ([os.getpid()], [os.getpid(), 1, dead]))
    assert one["pipeprobe_workers"] == 1
    assert one["pipeprobe_resident_memory_bytes"] == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    assert one["pipeprobe_cpu_seconds_total"] == pytest.approx(usage.ru_utime + usage.ru_stime, abs=0.5)
    assert two["pipeprobe_workers"] in (1, 2)  # process 1 may not be ours to look at
    assert two["pipeprobe_start_time_seconds"] == one["pipeprobe_start_time_seconds"]


def test_no_process_is_no_error() -> None:
    assert found(ProcessCollector(lambda: []))["pipeprobe_workers"] == 0


def test_gpus_are_silent_where_none_is_used() -> None:
    assert found(GpuCollector(lambda: False)) == {}


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a GPU")
def test_a_machine_without_nvml_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    collector = GpuCollector(lambda: True)
    assert found(collector) == found(collector) == {}
    assert [record.message.partition(":")[0] for record in caplog.records] == ["GPU memory is not measured"]


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/proc/driver/nvidia").exists(), reason="no GPU")
def test_a_gpu_has_memory_some_of_which_is_used() -> None:
    values = found(GpuCollector(lambda: True))
    assert set(values) == set(GPU_METRICS)
    assert 0 < values["pipeprobe_gpu_memory_used_bytes"] < values["pipeprobe_gpu_memory_bytes"]
    assert 0 <= values["pipeprobe_gpu_busy_ratio"] <= 1


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        ("GPU-cc, GPU-aaaa", [2, 0]),
        ("GPU-aa", []),  # two begin so
        ("1,7,0", [1]),  # CUDA stops at the first that there is not
        ("-1", []),
    ],
)
def test_visible_gpus_as_cuda_reads_them(variable: str | None, expected: list[int]) -> None:
    assert visible_gpus(variable, UUIDS) == expected
