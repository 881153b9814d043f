"""Room on this machine's disk for what is brought from elsewhere, bounded and emptied.

    <folder>/pipeprobe-<user>/<one a run>/   lock, and what the run keeps there

A run that was killed cannot empty its own; the next one does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.errors import ConfigError
from serving.file_lock import locked

_LOCK = "lock"


@contextmanager
def scratch_folder(parent: Path | None) -> Iterator[Path]:
    """A folder of this run below `parent`, None for the system's own, that is removed in the end.

    Raises `ConfigError` if there is none to be had.
    """
    room = (parent or Path(tempfile.gettempdir())) / f"pipeprobe-{os.getuid()}"
    try:
        room.mkdir(mode=0o700, parents=True, exist_ok=True)
        if room.stat().st_uid != os.getuid():
            raise ConfigError(f"{room} belongs to somebody else: name a folder of your own with --scratch")
        # One at a time, so that none is taken for abandoned before it is locked.
        with locked(room / _LOCK, wait=True):
            _remove_abandoned(room)
            folder = Path(tempfile.mkdtemp(prefix="run-", dir=room))
            held = locked(folder / _LOCK, wait=True)
            held.__enter__()
    except OSError as error:
        raise ConfigError(
            f"{room} cannot be written ({error.strerror or error}): name another with --scratch"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        held.__exit__(None, None, None)


def _remove_abandoned(room: Path) -> None:
    for folder in room.glob("run-*"):
        with locked(folder / _LOCK, wait=False) as mine:
            if mine:
                shutil.rmtree(folder, ignore_errors=True)
