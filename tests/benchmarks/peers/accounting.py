"""Processor time of a server: of all its processes, and of the threads of the one that works."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import psutil

# How the service names its threads; the main thread is the event loop. ONNX Runtime's have no name of their own.
_KINDS = {"decode": "decode", "scorer": "infer"}
_OTHERS = "infer, session's own threads"


def tree_cpu_s(pid: int) -> float:
    """User and system seconds of a process and all that it started."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def busiest_worker(pid: int) -> int:
    """Of the processes that `pid` started, and itself, the one that has worked most."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return max(processes, key=lambda process: sum(process.cpu_times()[:2])).pid


def thread_cpu_s(pid: int) -> dict[str, float]:
    """Seconds on a core by kind of thread, to the nanosecond (Linux's schedstat)."""
    used: dict[str, float] = defaultdict(float)
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip().partition("_")[0]
        kind = "event loop: HTTP, JSON" if task.name == str(pid) else _KINDS.get(name, _OTHERS)
        used[kind] += int((task / "schedstat").read_text().split()[0]) / 1e9
    return dict(used)
