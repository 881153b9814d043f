"""The threads that decode frames, shared by all pairs of a worker."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from serving.thread_names import show_name


class DecodePool:
    """Calls functions in threads, first come, first served; their results are their own business.

    A `ThreadPoolExecutor` would make a future for each, which nobody asks: the batcher has one already.
    """

    def __init__(self, n_threads: int) -> None:
        self._work: SimpleQueue[tuple[Callable[[Any], None], Any] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"decode_{index}", daemon=True) for index in range(n_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[[Any], None], argument: Any) -> None:
        """Have `function(argument)` called soon; it must not raise."""
        self._work.put((function, argument))

    def shutdown(self) -> None:
        """Drop what is queued, finish what is being done, and end the threads."""
        with contextlib.suppress(Empty):
            while True:
                self._work.get_nowait()
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        show_name()
        while (work := self._work.get()) is not None:
            function, argument = work
            function(argument)
            # Waiting for the next, this thread would keep the last frame alive.
            del work, argument
