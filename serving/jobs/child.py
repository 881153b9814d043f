"""The process of a job, seen from outside: start it, hear from it, end it."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from serving.jobs.messages import Order, Report

_ROOT = Path(__file__).resolve().parents[2]
_READ = 2**16
_TAIL = 2000
_STOP_S = 10.0


class Child:
    """A context manager: on leaving, the process is dead and waited for.

    `report` is the latest that it has said. Its standard error goes to the file `log`.
    """

    def __init__(self, order: Order, log: Path) -> None:
        self._log = log
        self._partial = b""
        self.report = Report()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            # A group of its own: Ctrl-C in the service's terminal is for the service, which ends its jobs itself.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving.jobs.worker"],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                bufsize=0,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        self._tell(order)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(_STOP_S)
        self._selector.close()
        self._input.close()
        self._output.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def listen(self, seconds: float) -> bool:
        """Take in what it says for that long; False as soon as it says no more, because it ends."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not self._selector.select(left):
                continue
            data = os.read(self._output.fileno(), _READ)
            if not data:
                self._process.wait(_STOP_S)
                return False
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                self.report = Report.from_line(line)
        return True

    def last_words(self) -> str:
        """The end of what it wrote to standard error."""
        data = self._log.read_bytes()
        return data[-_TAIL:].decode(errors="replace").strip()

    def _tell(self, order: Order) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended already; `listen` will find out
            self._input.write(order.to_line())
