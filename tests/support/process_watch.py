"""What processes hold while a test runs: memory, descriptors, threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

MIB = 2**20
_SAMPLE_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Held:
    """Sums over some processes: resident memory in bytes, open descriptors, threads."""

    rss: int
    descriptors: int
    threads: int

    def __str__(self) -> str:
        return f"RSS {self.rss / MIB:.1f} MiB, {self.descriptors} descriptors, {self.threads} threads"


def held_by(processes: Sequence[psutil.Process]) -> Held:
    return Held(
        rss=sum(process.memory_info().rss for process in processes),
        descriptors=sum(process.num_fds() for process in processes),
        threads=sum(process.num_threads() for process in processes),
    )


@dataclass
class Peak:
    """The largest resident memory seen, in bytes."""

    rss: int = field(default=0)


@contextmanager
def peak_of(processes: Sequence[psutil.Process]) -> Iterator[Peak]:
    """Watch `processes` while the block runs; one that ends meanwhile counts as nothing."""
    peak = Peak()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_SAMPLE_S):
            try:
                alive = [process for process in processes if process.is_running()]
                peak.rss = max(peak.rss, held_by(alive).rss)
            except psutil.NoSuchProcess:
                continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
