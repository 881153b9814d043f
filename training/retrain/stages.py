"""Stages of long work: each leaves a record when it is done, and is done again only if it has to be.

    OUT/stages/pack.json    {"inputs": what it was made of, "result": what came out, "seconds": how long it took}

A record is written whole, after the work. At the next start it stands if the inputs are the same and what the stage
made is still there as it was; otherwise the stage runs again, and with it every later one that its result goes into.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.durable import write_json_atomic
from serving.errors import ConfigError, DataError
from serving.file_lock import locked

FOLDER = "stages"
LOCK_FILE = ".lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Result = dict[str, Any]
# Called with a stage's name, whether an earlier result was kept, and the seconds that the work took.
Done = Callable[[str, bool, float], None]


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The stages of one output folder; `begun` is told the name of a stage that has work to do, and why again."""

    out: Path
    begun: Callable[[str, str], None]
    done: Done

    def run(
        self,
        name: str,
        *,
        inputs: Mapping[str, Any],
        work: Callable[[], Result],
        amiss: Callable[[Result], str | None] = lambda result: None,
    ) -> Result:
        """The stage's result: the earlier one if it stands, else that of `work`.

        Args:
            name: file name of the record.
            inputs: everything that decides the result, as JSON values.
            work: makes the output, whole or not at all, and returns what is worth knowing of it.
            amiss: what is wrong with the output that an earlier result describes; None if nothing is.
        """
        path = self.out / FOLDER / f"{name}.json"
        wanted = json.loads(json.dumps(inputs))
        record = _read(path)
        reason = ""
        if record is not None:
            reason = "what it is made of has changed" if record["inputs"] != wanted else amiss(record["result"]) or ""
            if not reason:
                self.done(name, True, record["seconds"])
                return dict(record["result"])
        self.begun(name, reason)
        start = time.monotonic()
        result = json.loads(json.dumps(work()))
        seconds = time.monotonic() - start
        write_json_atomic(path, {"inputs": wanted, "result": result, "seconds": round(seconds, 2)})
        self.done(name, False, seconds)
        return dict(result)


@contextmanager
def single_user(out: Path) -> Iterator[None]:
    """Hold `out` against other processes; raises `ConfigError` if one is at work there."""
    with locked(out / LOCK_FILE, wait=False) as mine:
        if not mine:
            raise ConfigError(f"another retraining is at work in {out}: wait for it, or give another --out")
        yield


@contextmanager
def full_disk_explained(out: Path) -> Iterator[None]:
    """Turn a full disk, wherever it shows, into a `DataError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DataError(
            f"no space left for {error.filename or out}: free some (frames, packs and checkpoints lie in {out}), then "
            "give the same command again, which goes on from here; or start anew with --out on another disk"
        ) from error


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"inputs", "result", "seconds"} <= record.keys() else None
