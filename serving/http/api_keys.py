"""API keys: a file of named hashes, and the ring of keys that a running service reads from it.

A key is 256 random bits, shown once when it is made; the file keeps its SHA-256. A slow password hash would
add nothing but work for every request: it protects secrets that can be guessed, and 256 random bits cannot.

The file is small JSON, written whole and renamed into place with mode 0600. Adding and revoking take a lock, so
that two administrators at once lose neither's key. A running service looks at the file's stat before each use and
reads it again when that has changed, so keys are added and revoked without a restart.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from serving.durable import write_json_atomic
from serving.errors import ConfigError
from serving.file_lock import locked
from serving.pairs.manifest import is_plain_name

logger = logging.getLogger(__name__)

Scope = Literal["score", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""What a key may be used for: `metrics` for /metrics, `score` for everything else."""

TOKEN_PREFIX = "pipeprobe_"  # tells people, and scanners of leaked secrets, what the string is
_TOKEN_BYTES = 32
_LONGEST_TOKEN = 256
_LONGEST_NAME = 64
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key as the file has it: never the key itself."""

    name: str
    sha256: str
    scopes: tuple[Scope, ...]
    created: str

    def __post_init__(self) -> None:
        check_name(self.name)
        if not _SHA256.fullmatch(self.sha256):
            raise ConfigError(f"key {self.name!r} has no SHA-256 of 64 hexadecimal digits")
        if not self.scopes or not set(self.scopes) <= set(SCOPES):
            raise ConfigError(f"key {self.name!r} must have scopes of {', '.join(SCOPES)}, has {self.scopes}")


def check_name(name: str) -> None:
    """Raise `ConfigError` unless `name` can stand in logs and metrics."""
    if not isinstance(name, str) or not is_plain_name(name) or len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"{str(name)[:_LONGEST_NAME]!r} cannot name a key; use up to {_LONGEST_NAME} letters, digits, '.', '_', '-'"
        )


def read_keys(path: Path) -> list[ApiKey]:
    """The keys of a file; none if it does not exist.

    Raises `ConfigError` if it is unreadable, is not what `add_key` writes, or could be changed by other users.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    # Whoever can write it can let themselves in. Reading it gives nothing away, and read-only mounts of secrets
    # are readable by a group as a rule.
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{path} can be written by other users; run: chmod 600 {path}")
    return _parse(path, text)


def add_key(path: Path, name: str, scopes: Sequence[Scope] = ("score",)) -> str:
    """Make a key, add it to the file, and return it: the only time that it is seen.

    Raises `ConfigError` if the name is taken or refused, or as `read_keys`.
    """
    check_name(name)
    token = TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    with _locked(path):
        keys = read_keys(path)
        if any(key.name == name for key in keys):
            raise ConfigError(f"there is a key {name!r} already; revoke it first, or use another name to rotate it")
        _write(path, [*keys, ApiKey(name=name, sha256=_digest(token), scopes=tuple(scopes), created=created)])
    return token


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of the file; raises `ConfigError` if there is none of that name, or as `read_keys`."""
    with _locked(path):
        keys = read_keys(path)
        kept = [key for key in keys if key.name != name]
        if len(kept) == len(keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise ConfigError(f"there is no key {name[:_LONGEST_NAME]!r} in {path}; there are: {names}")
        _write(path, kept)


class KeyRing:
    """The keys of a file as it is now; used from one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stat: tuple[int, ...] | None = None
        self._keys: list[ApiKey] = []

    def find(self, token: str) -> ApiKey | None:
        """The key that `token` is, or None. Takes as long for a wrong token as for a right one."""
        self._refresh()
        found = None
        digest = _digest(token[:_LONGEST_TOKEN])
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def __len__(self) -> int:
        self._refresh()
        return len(self._keys)

    def _refresh(self) -> None:
        """Read the file again if it was replaced. One that cannot be read or trusted lets nobody in."""
        try:
            now = os.stat(self._path)  # noqa: PTH116  # half the time of Path.stat, before every request
        except OSError:
            self._stat, self._keys = None, []
            return
        seen = (now.st_ino, now.st_mtime_ns, now.st_size, now.st_mode)
        if seen == self._stat:
            return
        try:
            self._keys = read_keys(self._path)
        except ConfigError:
            logger.exception("no API key is accepted until this is mended")
            self._keys = []
        self._stat = seen


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def _parse(path: Path, text: bytes) -> list[ApiKey]:
    try:
        value = json.loads(text)
        if value["version"] != _FILE_VERSION:
            raise ConfigError(f"{path} is of version {str(value['version'])[:20]}, this service reads {_FILE_VERSION}")
        keys = [ApiKey(**{**entry, "scopes": tuple(entry["scopes"])}) for entry in value["keys"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is no file of API keys; `pipeprobe keys add NAME` writes one") from error
    if len({key.name for key in keys}) != len(keys):
        raise ConfigError(f"{path} names a key twice")
    return keys


def _write(path: Path, keys: Sequence[ApiKey]) -> None:
    value: dict[str, Any] = {"version": _FILE_VERSION, "keys": [asdict(key) for key in keys]}
    write_json_atomic(path, value, mode=0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # Others of this machine have no business even in the names of what lies here.
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(path.with_name(f".{path.name}.lock"), wait=True):
        yield
