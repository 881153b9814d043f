from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from serving.prefetch import prefetch


def n_threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def test_everything_arrives_in_order() -> None:
    assert list(prefetch(range(100), ahead=3)) == list(range(100))
    assert n_threads() == 0


def test_work_runs_ahead_but_not_further_than_asked() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    with closing(prefetch(items(), ahead=3)) as ahead:
        assert next(ahead) == 0
        deadline = time.monotonic() + 5
        while len(made) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        assert len(made) == 5  # one used, three waiting, one that finds no room
    assert n_threads() == 0
    assert len(made) <= 6


def test_an_error_is_raised_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    ahead = prefetch(items(), ahead=3)
    assert next(ahead) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
    assert n_threads() == 0
