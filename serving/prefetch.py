"""Work done ahead in a thread, in a queue that is bounded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# How often a thread that waits for room looks whether anybody still wants its items.
_POLL_S = 0.1


@dataclass(frozen=True)
class _Failed:
    error: BaseException


class _Ended:
    """Marks that nothing follows."""


def prefetch(items: Iterable[T], *, ahead: int) -> Generator[T, None, None]:
    """Iterate over `items` in a thread, which runs up to `ahead` items ahead of the caller.

    What iterating raises is raised here, in its place. When the caller stops early, so does the thread, after the
    item that it is at; it has ended when this generator has.
    """
    ready: queue.Queue[T | _Failed | _Ended] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()
    thread = threading.Thread(target=_produce, args=(items, ready, stopped), name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _Ended):
                return
            if isinstance(item, _Failed):
                raise item.error
            yield item
    finally:
        stopped.set()
        thread.join()


def _produce(items: Iterable[T], ready: queue.Queue[T | _Failed | _Ended], stopped: threading.Event) -> None:
    last: _Failed | _Ended = _Ended()
    try:
        for item in items:
            if not _put(ready, item, stopped):
                return
    except BaseException as error:  # raised again where the items are used
        last = _Failed(error)
    _put(ready, last, stopped)


def _put(ready: queue.Queue[T | _Failed | _Ended], item: T | _Failed | _Ended, stopped: threading.Event) -> bool:
    """Put the item as soon as there is room; False if nobody wants it any more."""
    while not stopped.is_set():
        try:
            ready.put(item, timeout=_POLL_S)
            return True
        except queue.Full:
            continue
    return False
