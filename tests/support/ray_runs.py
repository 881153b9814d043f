"""Commands on a real Ray, and the workers that hold a lock meanwhile."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def ray_folder() -> Iterator[Path]:
    """For Ray's sessions; not under pytest's folder, whose long path would not fit into the names of sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ray_environment(folder: Path) -> dict[str, str]:
    """For a command whose Ray keeps everything in `folder`; it keeps a token at home."""
    return os.environ | {"RAY_TMPDIR": str(folder), "HOME": str(folder)}


def holder_of(lock: Path) -> int | None:
    """The process that holds a lock on the file, as the kernel says."""
    inode = str(lock.stat().st_ino)
    for line in Path("/proc/locks").read_text().splitlines():
        kind, pid, place = (line.split()[i] for i in (1, 4, 5))
        if kind == "FLOCK" and place.rpartition(":")[2] == inode:
            return int(pid)
    return None


def wait_until(condition: Callable[[], Any], *, timeout_s: float = 200) -> Any:
    """What the condition gives as soon as it is something."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")
