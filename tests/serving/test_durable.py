from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from serving import durable
from serving.durable import sha256_bytes, sha256_file, write_bytes_atomic, write_json_atomic, write_text_atomic


def test_files_are_written_whole_with_their_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.json"
    write_json_atomic(path, {"name": "Röhre", "n": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "Röhre", "n": 1}
    write_text_atomic(path, "ß")
    assert path.read_bytes() == "ß".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_bytes_atomic(path, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_bytes_atomic(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_see_the_old_file_until_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_bytes_atomic(path, b"old")
    seen: list[bytes] = []
    monkeypatch.setattr(durable.os, "fsync", lambda descriptor: seen.append(path.read_bytes()))
    write_bytes_atomic(path, b"new")
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


def test_digests_are_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == sha256_bytes(data) == hashlib.sha256(data).hexdigest()
