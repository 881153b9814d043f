"""Which of several runs writes to an object store, where no lock ends with the process that holds it.

    .claims/000001.json    who runs; written anew every few seconds for as long as it does

The run with the highest number has the folder. Numbers are taken by creating the object unless it is there, which an
object store grants to one of several runs at a time. A run that was killed leaves its claim: it is taken over as soon
as its process is seen to be gone, on the same machine, or when nothing was written for `LEASE_S`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from serving.cloud_files import CloudFolder
from serving.errors import ConfigError

CLAIMS = ".claims/"
BEAT_S = 5.0
"""Seconds between two signs of life."""
LEASE_S = 30.0
"""Seconds without one after which a run counts as dead."""

_POLL_S = 1.0
_CLAIM = re.compile(rf"{re.escape(CLAIMS)}\d{{6}}\.json")


@dataclass(frozen=True, kw_only=True)
class _Owner:
    """Who runs.

    Attributes:
        space: in which the number of the process means something: a kernel since it was booted, and a container.
        start: when the process began, by the kernel's count, since numbers of processes return.
    """

    host: str
    space: str
    pid: int
    start: str
    run: str
    beat: int = 0

    @classmethod
    def here(cls) -> _Owner:
        pid = os.getpid()
        return cls(host=socket.gethostname(), space=_space(), pid=pid, start=_start_of(pid), run=secrets.token_hex(8))

    def is_gone(self) -> bool:
        """Whether it is certain that the process has ended."""
        return self.space == _space() and _start_of(self.pid) != self.start


class RunClaim:
    """The right to write to a folder, held in a `with`; the claim is called `name` there.

    Raises `ConfigError` on entering if another run has it.
    """

    def __init__(self, folder: CloudFolder, *, beat_s: float = BEAT_S, lease_s: float = LEASE_S) -> None:
        self._folder, self._beat_s, self._lease_s = folder, beat_s, lease_s
        self._owner = _Owner.here()
        self._ended = threading.Event()
        self.name = ""
        self._lost = ""

    def __enter__(self) -> Self:
        self.name = self._take()
        self._thread = threading.Thread(target=self._live, name="claim", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if not self._lost:
            self._folder.remove([name for name in _claims(self._folder) if name <= self.name])

    def check(self) -> None:
        """Raise `ConfigError` if another run has taken over, as it does from one that was asleep."""
        self._lost = self._lost or _taken_over(self._folder, self.name)
        if self._lost:
            raise ConfigError(self._lost)

    def _take(self) -> str:
        newest = _claims(self._folder)[-1:]
        number = 0
        if newest:
            self._wait_until_dead(newest[0])
            number = int(Path(newest[0]).stem)
        name = f"{CLAIMS}{number + 1:06d}.json"
        if not self._folder.create(name, _to_bytes(self._owner)):
            raise ConfigError(f"another run has just begun to write to {self._folder.url}: one at a time")
        return name

    def _wait_until_dead(self, name: str) -> None:
        seen, until = b"", 0.0
        while True:
            said = self._folder.read([name])[name]
            owner = self._owner_in(name, said)
            if owner.is_gone():
                return
            if seen and said != seen:
                raise ConfigError(
                    f"{self._folder.url} is being written to by another run ({owner.host}, process {owner.pid}): one "
                    "at a time; run the command again when that one has ended"
                )
            if not seen:
                seen, until = said, time.monotonic() + self._lease_s
            if time.monotonic() > until:
                return
            time.sleep(min(_POLL_S, self._lease_s / 4))

    def _owner_in(self, name: str, said: bytes) -> _Owner:
        try:
            return _Owner(**json.loads(said))
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{self._folder.url}/{name} is no claim of a run ({error}): remove it if no run writes there"
            ) from error

    def _live(self) -> None:
        beat = 0
        while not self._ended.wait(self._beat_s):
            beat += 1
            with suppress(ConfigError):  # if too many fail, another run takes over, which `check` finds out
                self._folder.write(self.name, _to_bytes(replace(self._owner, beat=beat)))


def check_held(folder: CloudFolder, name: str) -> None:
    """`RunClaim.check` for the processes that work for the run whose claim has that name."""
    if lost := _taken_over(folder, name):
        raise ConfigError(lost)


def _taken_over(folder: CloudFolder, name: str) -> str:
    """Who has the folder instead of a claim; empty if it is held."""
    newest = _claims(folder)[-1:]
    if newest == [name]:
        return ""
    taken_by = newest[0] if newest else "claims are gone"
    return f"another run has taken {folder.url} over ({taken_by}): run the command again when that one has ended"


def _claims(folder: CloudFolder) -> list[str]:
    return sorted(name for name in folder.entries(CLAIMS) if _CLAIM.fullmatch(name))


def _to_bytes(owner: _Owner) -> bytes:
    return json.dumps(vars(owner)).encode()


def _space() -> str:
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"


def _start_of(pid: int) -> str:
    """When a process began; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
