"""Names of threads where the system shows them: `top -H`, profilers, and the benchmark that adds up their time."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path


def show_name() -> None:
    """Give the current thread's Python name (its first 15 letters) to the system, where that takes one."""
    task = Path(f"/proc/self/task/{threading.get_native_id()}/comm")
    with contextlib.suppress(OSError):
        task.write_text(threading.current_thread().name[:15])
