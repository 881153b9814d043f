"""Files that survive a kill at any moment: written whole under another name, then renamed into place."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_bytes_atomic(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write `data` to `path`: afterwards the file is either as it was or complete, also after a power cut.

    `mode` is the new file's, less the umask; it holds from the first byte on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str, *, mode: int = 0o666) -> None:
    """`write_bytes_atomic` for UTF-8 text.

    Names of files are bytes, not necessarily of any text: what Python holds as `\\udcff` is written as that escape,
    which JSON reads back.
    """
    write_bytes_atomic(path, text.encode(errors="backslashreplace"), mode=mode)


def write_json_atomic(path: Path, value: Any, *, mode: int = 0o666) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused, since JSON has neither."""
    write_text_atomic(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n", mode=mode)


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; reads it in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
