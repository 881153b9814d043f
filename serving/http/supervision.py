"""What BentoML's supervisor leaves open when processes are killed: workers that are missed late, or left behind.

BentoML starts a dead worker anew, but looks for dead ones only every ten seconds; with one worker, that long
nobody answers. And when the supervisor itself is killed, its workers live on and hold the port, so that the
service cannot be started again.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import threading
import time

CHECK_S = 0.5
"""How often the supervisor looks for dead workers."""

# Of an orphaned worker: requests that are being answered may end, then it must be gone.
_GRACE_S = 5.0
_SUPERVISOR = "_PIPEPROBE_SUPERVISOR_PID"


def watch_workers_closely() -> None:
    """In the supervisor, before it serves: have dead workers replaced within `CHECK_S` and their start."""
    from bentoml._internal.utils import circus

    # BentoML takes the interval as an argument of this function and gives nobody a way to pass it.
    circus.create_standalone_arbiter = functools.partial(circus.create_standalone_arbiter, check_delay=CHECK_S)
    os.environ[_SUPERVISOR] = str(os.getpid())


def end_with_supervisor() -> None:
    """In a worker: end when the parent process does, however that ended."""
    parent = os.getppid()
    expected = os.environ.get(_SUPERVISOR)
    if expected is not None and int(expected) != parent:  # it was killed before this line
        os.kill(os.getpid(), signal.SIGTERM)
        return
    threading.Thread(target=_end_after, args=(parent,), name="supervisor-watch", daemon=True).start()


def _end_after(parent: int) -> None:
    _wait_for_end(parent)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_end(parent: int) -> None:
    """Return once `parent` is no longer this process's parent."""
    try:
        descriptor = os.pidfd_open(parent)
    except (AttributeError, OSError):  # not Linux, or an old kernel, or already gone
        while os.getppid() == parent:
            time.sleep(CHECK_S)
        return
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.poll()
    finally:
        os.close(descriptor)
