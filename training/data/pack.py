"""Packs: a split of a data set decoded once, at training size, into one memory-mapped file.

    PACK/frames.u8       uint8 [N, S, S, 3], nothing but pixels
    PACK/columns.npz     labels int8 [N], classes uint8 [N, 17], inspections int32 [N]
    PACK/names.txt       one name a line, N
    PACK/index.json      what the pack holds, checksums, what it was made from and with; written last
    PACK/building/       only while it is being made: the plan, and a line for each finished shard

Frames are decoded by `serving.frames`, the same function that decodes what is scored. Workers write whole shards of
frames to their places in the file and report a checksum, which goes into a journal; after a kill, shards whose
content still matches their line are kept. Memory holds the columns, the names and a few frames per worker.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.devices import available_cores
from serving.durable import sha256_bytes, sha256_file, write_bytes_atomic, write_json_atomic, write_text_atomic
from serving.errors import DataError
from serving.file_lock import locked
from serving.progress import track_progress
from training.data.classes import CLASS_CODES
from training.data.frame_table import FrameTable, count_labels
from training.data.shards import CorruptImage, Shard, checksum, run_shards

SCHEMA_VERSION = 1
# Small enough that a progress bar moves and many workers share a small set; a kill loses one per worker.
SHARD_FRAMES = 256
RESIZE_RULE = "serving.frames: whole picture squashed to a square, antialiased bilinear"

FRAMES_FILE = "frames.u8"
COLUMNS_FILE = "columns.npz"
NAMES_FILE = "names.txt"
INDEX_FILE = "index.json"
_BUILDING = "building"
_PLAN_FILE = "plan.json"
_JOURNAL_FILE = "shards.jsonl"
_LOCK_FILE = ".lock"
_OURS = frozenset({FRAMES_FILE, COLUMNS_FILE, NAMES_FILE, INDEX_FILE, _BUILDING, _LOCK_FILE})

_INDEX_KEYS = frozenset(
    {
        *("schema_version", "source", "split", "size", "count", "corrupt"),
        *("class_codes", "plan", "files", "shard_frames", "shards"),
    }
)

# The distributions that can change a decoded pixel.
_PACKAGES = ("pipeprobe", "numpy", "pillow")
_NAMED_AT_MOST = 10
_BLOCK_FRAMES = 64


class PackError(DataError):
    """A pack folder is not whole, not intact, or not what was asked for."""


class CorruptFramesError(DataError):
    """Some images of a data set cannot be decoded."""


class Frames(Protocol):
    """uint8 [N, S, S, 3], read by slices and arrays of places; as a rule a memory map."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, places: Any, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Pack:
    """N frames of S x S pixels, ready for training.

    Attributes:
        path: its folder.
        frames: uint8 [N, S, S, 3], a read-only memory map, or some rows of one.
        labels: int8 [N]: 1 defect, 0 normal, -1 unlabelled.
        classes: uint8 [N, 17], columns as `CLASS_CODES`.
        inspections: int32 [N], -1 unknown.
        names: N unique names.
        size: S in pixels.
        source, split: what data these are.
        digest: SHA-256 of all of the content; equal packs have equal digests.
        index: all of `index.json`.
    """

    path: Path
    frames: Frames
    labels: NDArray[np.int8]
    classes: NDArray[np.uint8]
    inspections: NDArray[np.int32]
    names: tuple[str, ...]
    size: int
    source: str
    split: str
    digest: str
    index: dict[str, Any]

    def __len__(self) -> int:
        return len(self.names)


def open_pack(path: Path, *, verify: bool = True) -> Pack:
    """Open a finished pack.

    Args:
        path: the folder.
        verify: also read all frames once and compare their checksums, about a second per GB. File sizes and the
            columns' checksums are checked in any case.

    Raises:
        PackError: not a pack, not finished, or damaged.
    """
    index = _read_index(path)
    n, size = index["count"], index["size"]
    n_bytes = n * size * size * 3
    frames_path = path / FRAMES_FILE
    if not frames_path.is_file() or frames_path.stat().st_size != n_bytes:
        raise PackError(f"{frames_path} must hold {n} frames, {n_bytes} bytes, and does not: pack again")
    for name, expected in index["files"].items():
        if not (path / name).is_file() or sha256_file(path / name) != expected:
            raise PackError(f"{path / name} is missing or was changed since it was packed: pack again")
    frames = np.memmap(frames_path, np.uint8, "r", shape=(n, size, size, 3))
    if verify:
        _verify_frames(path, index)
    with np.load(path / COLUMNS_FILE) as columns:
        labels, classes, inspections = (columns[name] for name in ("labels", "classes", "inspections"))
    names = tuple((path / NAMES_FILE).read_bytes().decode().split("\n")[:-1])
    if not len(names) == len(labels) == len(classes) == len(inspections) == n:
        raise PackError(f"{path}: {INDEX_FILE} and the columns disagree on how many frames there are: pack again")
    return Pack(
        path=path,
        frames=frames,
        labels=labels,
        classes=classes,
        inspections=inspections,
        names=names,
        size=size,
        source=index["source"],
        split=index["split"],
        digest=content_digest(index),
        index=index,
    )


def build_pack(
    table: FrameTable,
    *,
    size: int,
    out: Path,
    workers: int | None = None,
    skip_corrupt: bool = False,
    subset: Mapping[str, Any] | None = None,
    command: str = "",
) -> Pack:
    """Decode the frames of `table` into a pack, continuing an interrupted one.

    Args:
        table: what to pack.
        size: side of the packed frames in pixels.
        out: the pack's folder; may hold the same pack, finished or not.
        workers: processes; all available cores by default. The result does not depend on it.
        skip_corrupt: leave undecodable images out and record them, instead of failing.
        subset: how `table` was drawn from its split, for the record.
        command: what was typed, for the record.

    Returns:
        The finished pack.

    Raises:
        PackError: `out` holds something else, or another process is writing to it, or the disk is too small.
        CorruptFramesError: images cannot be decoded; lists them. Finished work is kept for another try.
        DataError: an image cannot be read.
    """
    if size < 1:
        raise PackError(f"the size of packed frames must be positive, got {size} px")
    plan = _make_plan(table, size, subset)
    out.mkdir(parents=True, exist_ok=True)
    with _single_writer(out):
        if (out / INDEX_FILE).is_file():
            return _reopen(out, plan, skip_corrupt)
        _start_or_continue(out, plan)
        builder = _Builder(table=table, size=size, out=out)
        checksums, corrupt = builder.decode(workers or available_cores())
        if corrupt and (not skip_corrupt or len(corrupt) == len(table)):
            raise CorruptFramesError(_describe_corrupt(corrupt, len(table)))
        if corrupt:
            builder = builder.close_gaps(corrupt)
            checksums = builder.checksum_all()
        _finish(builder, checksums, corrupt, plan, command)
    return open_pack(out, verify=False)


def content_digest(index: Mapping[str, Any]) -> str:
    """SHA-256 over what a pack's index says of its content: identity of the frames, names and labels."""
    content = [index[key] for key in ("schema_version", "size", "count", "source", "split", "shards", "files")]
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())


def _read_index(path: Path) -> dict[str, Any]:
    index_path = path / INDEX_FILE
    if not index_path.is_file():
        remedy = "it is unfinished: run the same pack command again" if (path / _BUILDING).is_dir() else "not a pack"
        raise PackError(f"{path} has no {INDEX_FILE}: {remedy}")
    try:
        index = json.loads(index_path.read_text(encoding="utf-8"))
        version = index["schema_version"]
        missing = _INDEX_KEYS - index.keys()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackError(f"{index_path} is not an index of a pack ({error!r}): pack again") from error
    if version != SCHEMA_VERSION:
        raise PackError(f"{index_path} has schema version {version}, this code reads {SCHEMA_VERSION}: pack again")
    if missing:
        raise PackError(f"{index_path} lacks {', '.join(sorted(missing))}: pack again")
    if index["class_codes"] != list(CLASS_CODES):
        raise PackError(f"{index_path} has other classes than this code: pack again")
    assert isinstance(index, dict)
    return index


def _verify_frames(path: Path, index: Mapping[str, Any]) -> None:
    n, step = index["count"], index["shard_frames"]
    with track_progress(f"verifying {path.name}", total=n, unit="frames") as advance:
        for first, expected in zip(range(0, n, step), index["shards"], strict=True):
            frames = min(step, n - first)
            if checksum(path / FRAMES_FILE, first, frames, index["size"]) != expected:
                raise PackError(
                    f"{path / FRAMES_FILE}: frames {first} to {first + frames - 1} are damaged: "
                    f"delete {path} and pack again"
                )
            advance(frames)


def _make_plan(table: FrameTable, size: int, subset: Mapping[str, Any] | None) -> dict[str, Any]:
    """All that decides the pack's content, but the images' own bytes."""
    digest = hashlib.sha256("\n".join(table.names).encode())
    for column in (table.labels, table.classes, table.inspections):
        digest.update(column.tobytes())
    return {
        "schema_version": SCHEMA_VERSION,
        "source": table.source,
        "split": table.split,
        "size": size,
        "resize": RESIZE_RULE,
        "frames": len(table),
        "table_digest": digest.hexdigest(),
        "subset": dict(subset) if subset is not None else None,
        "packages": _package_versions(),
    }


def _package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@contextmanager
def _single_writer(out: Path) -> Iterator[None]:
    with locked(out / _LOCK_FILE, wait=False) as mine:
        if not mine:
            raise PackError(f"{out} is being written by another process: wait for it, or name another folder")
        yield


def _reopen(out: Path, plan: Mapping[str, Any], skip_corrupt: bool) -> Pack:
    pack = open_pack(out)
    made_with = pack.index["plan"]
    # A finished pack stays what it is, whatever was upgraded since.
    _refuse_other(out, made_with | {"packages": None}, dict(plan) | {"packages": None})
    if pack.index["corrupt"] and not skip_corrupt:
        raise PackError(
            f"{out} was made with --skip-corrupt and lacks {len(pack.index['corrupt'])} frames: "
            "delete it to pack again, or give --skip-corrupt to take it as it is"
        )
    shutil.rmtree(out / _BUILDING, ignore_errors=True)
    return pack


def _refuse_other(out: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = [key for key in asked if there.get(key) != asked[key]]
    if differing:
        facts = "; ".join(f"{key} {there.get(key)} there, {asked[key]} asked for" for key in differing)
        raise PackError(f"{out} holds another pack ({facts}): name another folder, or delete this one")


def _start_or_continue(out: Path, plan: dict[str, Any]) -> None:
    plan_path = out / _BUILDING / _PLAN_FILE
    if plan_path.is_file():
        try:
            there = json.loads(plan_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise PackError(f"{plan_path} is not the plan of a pack: delete {out} and pack again") from error
        _refuse_other(out, there, plan)
    else:
        foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in _OURS)
        if foreign:
            raise PackError(f"{out} holds other things ({', '.join(foreign[:5])}): name a new folder for the pack")
    _reserve_disk(out / FRAMES_FILE, plan["frames"] * plan["size"] ** 2 * 3)
    write_json_atomic(plan_path, plan)


def _reserve_disk(path: Path, n_bytes: int) -> None:
    """Give the file its full size, now, so that no pack fails for want of disk after hours of decoding."""
    taken = path.stat().st_blocks * 512 if path.is_file() else 0
    free = shutil.disk_usage(path.parent).free
    if n_bytes - taken > free:
        raise PackError(
            f"{path} needs {n_bytes / 2**30:.2f} GiB, and the disk has {free / 2**30:.2f} GiB free: "
            "free some space, name a folder on another disk, or pack at a smaller size"
        )
    try:
        with path.open("r+b" if path.is_file() else "xb") as file:
            file.truncate(n_bytes)
            os.posix_fallocate(file.fileno(), 0, n_bytes)
    except OSError as error:
        raise PackError(f"cannot reserve {n_bytes} bytes for {path}: {error.strerror}; name another folder") from error


@dataclass(frozen=True, kw_only=True)
class _Builder:
    """The decoding of one pack: shards, their journal, and the frames file."""

    table: FrameTable
    size: int
    out: Path

    @property
    def frames_path(self) -> Path:
        return self.out / FRAMES_FILE

    @property
    def journal_path(self) -> Path:
        return self.out / _BUILDING / _JOURNAL_FILE

    def decode(self, workers: int) -> tuple[dict[int, str], list[CorruptImage]]:
        """Decode all shards that are not there yet.

        Returns:
            The checksum of each shard without corrupt images, and the corrupt images in the table's order.
        """
        checksums = self._kept_shards()
        write_text_atomic(self.journal_path, "".join(_journal_line(*entry) for entry in checksums.items()))
        missing = [number for number in range(-(-len(self.table) // SHARD_FRAMES)) if number not in checksums]
        corrupt: list[CorruptImage] = []
        with (
            track_progress(f"packing {self.out.name}", total=len(self.table), unit="frames") as advance,
            self.journal_path.open("a", encoding="utf-8") as journal,
            # Closed at once, not some time after an interruption, so that no worker outlives the lock.
            closing(run_shards(map(self._shard, missing), min(workers, len(missing)))) as reports,
        ):
            advance(sum(len(self._shard(number).names) for number in checksums))
            for done in reports:
                corrupt += done.corrupt
                # Shards with corrupt images are tried again next time: someone may have mended the images.
                if not done.corrupt:
                    checksums[done.number] = done.checksum
                    journal.write(_journal_line(done.number, done.checksum))
                    journal.flush()
                advance(done.frames, f"{len(corrupt)} corrupt" if corrupt else "")
        return checksums, sorted(corrupt)

    def _shard(self, number: int) -> Shard:
        first = number * SHARD_FRAMES
        names = self.table.names[first : first + SHARD_FRAMES]
        store = self.table.store.part(names)
        return Shard(number=number, first=first, names=names, store=store, path=self.frames_path, size=self.size)

    def _kept_shards(self) -> dict[int, str]:
        """Shards that an earlier process finished and whose content still matches: number -> checksum."""
        kept: dict[int, str] = {}
        for number, expected in _read_journal(self.journal_path).items():
            first = number * SHARD_FRAMES
            frames = min(SHARD_FRAMES, len(self.table) - first)
            if frames > 0 and checksum(self.frames_path, first, frames, self.size) == expected:
                kept[number] = expected
        return kept

    def close_gaps(self, corrupt: list[CorruptImage]) -> _Builder:
        """Move frames forward over the places of corrupt ones; returns the builder of what remains.

        A kill in between leaves shards that no longer match the journal, which are then decoded again.
        """
        gone = [image.row for image in corrupt]
        rows = np.delete(np.arange(len(self.table)), gone)
        frames = np.memmap(self.frames_path, np.uint8, "r+", shape=(len(self.table), self.size, self.size, 3))
        for start in range(gone[0], len(rows), _BLOCK_FRAMES):
            stop = min(start + _BLOCK_FRAMES, len(rows))
            # The right side is a copy, and rows never move backwards, so nothing is overwritten before it is read.
            frames[start:stop] = frames[rows[start:stop]]
        frames.flush()
        del frames
        os.truncate(self.frames_path, len(rows) * self.size * self.size * 3)
        return replace(self, table=self.table.select(rows))

    def checksum_all(self) -> dict[int, str]:
        """The checksum of each shard as it now is."""
        n = len(self.table)
        return {
            number: checksum(self.frames_path, first, min(SHARD_FRAMES, n - first), self.size)
            for number, first in enumerate(range(0, n, SHARD_FRAMES))
        }


def _journal_line(number: int, expected: str) -> str:
    return json.dumps({"shard": number, "sha256": expected}) + "\n"


def _read_journal(path: Path) -> dict[int, str]:
    finished: dict[int, str] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                finished[int(entry["shard"])] = entry["sha256"]
            except (ValueError, KeyError, TypeError):
                continue  # a kill can cut the last line short; its shard is decoded again
    return finished


def _finish(
    builder: _Builder,
    checksums: Mapping[int, str],
    corrupt: list[CorruptImage],
    plan: Mapping[str, Any],
    command: str,
) -> None:
    """Write all but the frames, the index last, which makes the folder a pack."""
    out, table = builder.out, builder.table
    _write_columns(out, table)
    with builder.frames_path.open("rb") as file:
        os.fsync(file.fileno())
    index = {
        "schema_version": SCHEMA_VERSION,
        "source": table.source,
        "split": table.split,
        "size": builder.size,
        "count": len(table),
        "labels": count_labels(table.labels),
        "subset": plan["subset"],
        "corrupt": [{"name": image.name, "reason": image.reason} for image in corrupt],
        "notes": list(table.notes),
        "class_codes": list(CLASS_CODES),
        "resize": RESIZE_RULE,
        "packages": plan["packages"],
        "command": command,
        "plan": dict(plan),
        "files": {name: sha256_file(out / name) for name in (COLUMNS_FILE, NAMES_FILE)},
        "shard_frames": SHARD_FRAMES,
        "shards": [checksums[number] for number in sorted(checksums)],
    }
    write_json_atomic(out / INDEX_FILE, index)
    shutil.rmtree(out / _BUILDING)


def _write_columns(out: Path, table: FrameTable) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, labels=table.labels, classes=table.classes, inspections=table.inspections)
    write_bytes_atomic(out / COLUMNS_FILE, buffer.getvalue())
    write_text_atomic(out / NAMES_FILE, "".join(f"{name}\n" for name in table.names))


def _describe_corrupt(corrupt: list[CorruptImage], total: int) -> str:
    lines = [f"  {image.name} {image.reason}" for image in corrupt[:_NAMED_AT_MOST]]
    if len(corrupt) > len(lines):
        lines.append(f"  and {len(corrupt) - len(lines)} more")
    listing = "\n".join(lines)
    return (
        f"{len(corrupt)} of {total} images cannot be decoded:\n{listing}\n"
        "replace them and run the same command again, or leave them out, on record, with --skip-corrupt"
    )
