"""The decoding threads: everything once, first come first served, none left behind."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from serving.decode_pool import DecodePool


@pytest.mark.parametrize("n_threads", [1, 3])
def test_calls_everything_once(n_threads: int) -> None:
    done: list[int] = []
    finished = threading.Event()

    def work(number: int) -> None:
        done.append(number)
        if len(done) == 200:
            finished.set()

    pool = DecodePool(n_threads)
    for number in range(200):
        pool.submit(work, number)
    assert finished.wait(10)
    pool.shutdown()
    assert sorted(done) == list(range(200))
    if n_threads == 1:
        assert done == list(range(200))


def test_shutdown_finishes_what_is_being_done_and_drops_the_rest() -> None:
    entered, released = threading.Event(), threading.Event()
    done: list[str] = []

    def work(name: str) -> None:
        entered.set()
        assert released.wait(10)
        done.append(name)

    pool = DecodePool(1)
    pool.submit(work, "first")
    assert entered.wait(10)
    pool.submit(work, "second")
    stopper = threading.Thread(target=pool.shutdown)
    stopper.start()
    stopper.join(0.1)  # by now the second is dropped, and the shutdown waits for the first
    assert stopper.is_alive()
    released.set()
    stopper.join(10)
    assert not stopper.is_alive()
    assert done == ["first"]
    assert not any(thread.is_alive() for thread in pool._threads)


def test_keeps_nothing_of_what_is_done() -> None:
    class Payload:
        pass

    payload = Payload()
    kept = weakref.ref(payload)
    finished = threading.Event()
    pool = DecodePool(1)
    pool.submit(lambda _: None, payload)
    del payload
    pool.submit(lambda event: event.set(), finished)
    assert finished.wait(10)
    gc.collect()
    assert kept() is None
    pool.shutdown()
