"""Packs: a data set decoded once, at training size, into one memory-mapped file.

A pack is a folder: `frames.u8` (uint8 [N, S, S, 3], row after row), `index.npz` (names, labels, classes, inspections)
and `index.json` (where it comes from, checksums), written last: a folder without it is a pack that is still being
built, and building it again goes on from the shards in `progress.jsonl`.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.durable import write_bytes_atomic, write_json_atomic
from serving.errors import DataError, FrameError
from serving.frames import decode_bytes
from serving.progress import track_progress
from training.data.frame_table import DEFECT, NORMAL, UNLABELLED, FrameTable

SCHEMA_VERSION = 1
SHARD_FRAMES = 512
CORRUPT_SHOWN = 5


class CorruptImagesError(DataError):
    """Images of the data set cannot be decoded."""

    slug = "corrupt-images"
    title = "The data set holds images that cannot be decoded"


@dataclass(frozen=True, kw_only=True, eq=False)
class Pack:
    """An opened pack of N frames; `frames` uint8 [N, S, S, 3] is memory-mapped and read-only, `labels` int8 [N]
    (1 defect, 0 normal, -1 unlabelled), `classes` uint8 [N, 17], `inspections` int32 [N] (-1 unknown)."""

    path: Path
    frames: NDArray[np.uint8]
    labels: NDArray[np.int8]
    classes: NDArray[np.uint8]
    inspections: NDArray[np.int32]
    names: tuple[str, ...]
    size: int
    source: str
    split: str
    digest: str
    corrupt: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def summary(self) -> str:
        """One line for people: how many of what."""
        counts = {"defect": DEFECT, "normal": NORMAL, "unlabelled": UNLABELLED}
        parts = [f"{int((self.labels == label).sum())} {word}" for word, label in counts.items()]
        return f"{len(self)} frames of {self.size} px ({', '.join(parts)}; {len(self.corrupt)} corrupt left out)"


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What a pack is built from; a started pack is only continued with an equal plan."""

    source: str
    split: str
    size: int
    count: int
    names_digest: str

    @classmethod
    def of(cls, table: FrameTable, size: int) -> _Plan:
        listing = "\n".join(f"{n}\t{y}" for n, y in zip(table.names, table.labels, strict=True))
        digest = hashlib.sha256(listing.encode() + table.classes.tobytes() + table.inspections.tobytes()).hexdigest()
        return cls(source=table.source, split=table.split, size=size, count=len(table), names_digest=digest)


def build_pack(
    table: FrameTable,
    *,
    size: int,
    out: Path,
    workers: int = 2,
    skip_corrupt: bool = False,
    subset: dict[str, Any] | None = None,
) -> Pack:
    """Decode every frame of `table` to `size` x `size` into the pack `out`; goes on where a killed run stopped.

    Raises:
        CorruptImagesError: images cannot be decoded and `skip_corrupt` is off; the pack is left unfinished.
        DataError: `out` holds another pack or is being written by another process, or the disk is too small.
    """
    if size < 8:
        raise DataError(f"--size {size} is too small for a frame; use 64 or more")
    plan = _Plan.of(table, size)
    with _only_writer(out):
        if (out / "index.json").is_file():
            return _same_pack(out, plan)
        done = _started(out, plan)
        _decode_missing(table, plan, out, done, workers)
        corrupt = sorted(i for shard in done.values() for i in shard["corrupt"])
        if corrupt and not skip_corrupt:
            shown = ", ".join(table.names[i] for i in corrupt[:CORRUPT_SHOWN])
            raise CorruptImagesError(
                f"{len(corrupt)} of {len(table)} images cannot be decoded, first: {shown}; replace them, or leave them "
                "out with --skip-corrupt"
            )
        _finish(table, plan, out, corrupt, done, subset)
    return open_pack(out)


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{out} is being written by another process; wait for it or name another folder") from None
        yield


def _same_pack(out: Path, plan: _Plan) -> Pack:
    index = _read_index(out)
    if index["plan"] != vars(plan):
        raise DataError(
            f"{out} already holds a pack of {index['plan']['source']}, split {index['plan']['split']}, "
            f"{index['plan']['size']} px; name another folder"
        )
    return open_pack(out)


def _started(out: Path, plan: _Plan) -> dict[int, dict[str, Any]]:
    """The shards that an earlier, killed run finished; a fresh file where there was none."""
    progress, frames = out / "progress.jsonl", out / "frames.u8"
    size_bytes = plan.count * plan.size * plan.size * 3
    if not progress.is_file():
        others = [p.name for p in out.iterdir() if p.name not in (".lock", "frames.u8")]
        if others:
            raise DataError(f"{out} holds other files ({', '.join(sorted(others)[:3])}); name an empty folder")
        free = shutil.disk_usage(out).free
        if free < size_bytes:
            raise DataError(f"{out}: the pack takes {size_bytes / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free")
        with frames.open("wb") as file:
            file.truncate(size_bytes)
        write_bytes_atomic(progress, (json.dumps(vars(plan)) + "\n").encode())
        return {}
    lines = progress.read_text().splitlines()
    if json.loads(lines[0]) != vars(plan):
        raise DataError(f"{out} was begun from another data set, split or size; remove it or name another folder")
    done: dict[int, dict[str, Any]] = {}
    for line in lines[1:]:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # the line that was being written when the run was killed
            continue
        if _shard_digest(frames, plan, record["shard"]) == record["sha256"]:
            done[record["shard"]] = record
    return done


def _shard_rows(plan: _Plan, shard: int) -> range:
    return range(shard * SHARD_FRAMES, min(plan.count, (shard + 1) * SHARD_FRAMES))


def _shard_digest(frames: Path, plan: _Plan, shard: int) -> str:
    rows, row_bytes = _shard_rows(plan, shard), plan.size * plan.size * 3
    with frames.open("rb") as file:
        file.seek(rows.start * row_bytes)
        return hashlib.sha256(file.read(len(rows) * row_bytes)).hexdigest()


def _decode_missing(table: FrameTable, plan: _Plan, out: Path, done: dict[int, dict[str, Any]], workers: int) -> None:
    shards = -(-plan.count // SHARD_FRAMES)
    missing = [shard for shard in range(shards) if shard not in done]
    if not missing:
        return
    context = multiprocessing.get_context("spawn")
    with (
        track_progress(f"packing {plan.split}", total=plan.count, unit="frames") as advance,
        context.Pool(min(workers, len(missing)), initializer=_begin_worker, initargs=(table, plan, out)) as pool,
        (out / "progress.jsonl").open("a") as progress,
    ):
        advance(sum(len(_shard_rows(plan, shard)) for shard in done))
        for record in pool.imap_unordered(_decode_shard, missing):
            progress.write(json.dumps(record) + "\n")
            progress.flush()
            os.fsync(progress.fileno())
            done[record["shard"]] = record
            advance(len(_shard_rows(plan, record["shard"])))


_worker: tuple[FrameTable, _Plan, Path]


def _begin_worker(table: FrameTable, plan: _Plan, out: Path) -> None:
    global _worker
    _worker = (table, plan, out)


def _decode_shard(shard: int) -> dict[str, Any]:
    table, plan, out = _worker
    rows = _shard_rows(plan, shard)
    pixels = np.zeros((len(rows), plan.size, plan.size, 3), dtype=np.uint8)
    corrupt = []
    for i, row in enumerate(rows):
        try:
            pixels[i] = decode_bytes(table.store.read(table.names[row]), plan.size)
        except FrameError:
            corrupt.append(row)
    data = pixels.tobytes()
    with (out / "frames.u8").open("r+b") as file:
        file.seek(rows.start * plan.size * plan.size * 3)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"shard": shard, "sha256": hashlib.sha256(data).hexdigest(), "corrupt": corrupt}


def _finish(
    table: FrameTable,
    plan: _Plan,
    out: Path,
    corrupt: list[int],
    done: dict[int, dict[str, Any]],
    subset: dict[str, Any] | None,
) -> None:
    kept = np.setdiff1d(np.arange(plan.count), np.array(corrupt, dtype=np.int64))
    part = table.select(kept) if corrupt else table
    digests = [done[shard]["sha256"] for shard in sorted(done)]
    if corrupt:
        digests = _close_gaps(out, plan, kept)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        names=np.array(part.names),
        labels=part.labels,
        classes=part.classes,
        inspections=part.inspections,
    )
    write_bytes_atomic(out / "index.npz", buffer.getvalue())
    index_digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    index = {
        "schema_version": SCHEMA_VERSION,
        "plan": vars(plan),
        "frames": len(kept),
        "shard_frames": SHARD_FRAMES,
        "shard_sha256": digests,
        "index_sha256": index_digest,
        "digest": hashlib.sha256("".join([*digests, plan.names_digest]).encode()).hexdigest(),
        "corrupt": [table.names[i] for i in corrupt],
        "subset": subset,
    }
    write_json_atomic(out / "index.json", index)
    (out / "progress.jsonl").unlink()


def _close_gaps(out: Path, plan: _Plan, kept: NDArray[np.int64]) -> list[str]:
    """Rewrite the frames without the corrupt ones, in a new file that then takes the old one's place."""
    shape = (plan.count, plan.size, plan.size, 3)
    frames = np.memmap(out / "frames.u8", dtype=np.uint8, mode="r", shape=shape)
    digests = []
    with (out / "frames.closed").open("wb") as file:
        for start in range(0, len(kept), SHARD_FRAMES):
            data = frames[kept[start : start + SHARD_FRAMES]].tobytes()
            digests.append(hashlib.sha256(data).hexdigest())
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    (out / "frames.closed").replace(out / "frames.u8")
    return digests


def _read_index(path: Path) -> dict[str, Any]:
    file = path / "index.json"
    if not file.is_file():
        begun = (path / "progress.jsonl").is_file()
        remedy = "it is unfinished; run the same pack command again" if begun else "make one with pipeprobe-train pack"
        raise DataError(f"{path} is no pack: {remedy}")
    index: dict[str, Any] = json.loads(file.read_text())
    if index.get("schema_version") != SCHEMA_VERSION:
        raise DataError(f"{path} has pack schema {index.get('schema_version')}, not {SCHEMA_VERSION}; pack it again")
    return index


def open_pack(path: Path, *, verify: bool = True) -> Pack:
    """Open a finished pack. With `verify` every checksum is computed; sizes are checked always.

    Raises:
        DataError: no pack, an unfinished one, or one whose content has changed.
    """
    index = _read_index(path)
    size, count = index["plan"]["size"], index["frames"]
    frames_file = path / "frames.u8"
    expected = count * size * size * 3
    if not frames_file.is_file() or frames_file.stat().st_size != expected:
        raise DataError(f"{frames_file} does not have the {expected} bytes that the index says; pack it again")
    if verify:
        _verify(path, index)
    with np.load(path / "index.npz", allow_pickle=False) as columns:
        names = tuple(str(name) for name in columns["names"])
        labels, classes, inspections = columns["labels"], columns["classes"], columns["inspections"]
    return Pack(
        path=path,
        frames=np.memmap(frames_file, dtype=np.uint8, mode="r", shape=(count, size, size, 3)),
        labels=labels,
        classes=classes,
        inspections=inspections,
        names=names,
        size=size,
        source=index["plan"]["source"],
        split=index["plan"]["split"],
        digest=index["digest"],
        corrupt=tuple(index["corrupt"]),
    )


def _verify(path: Path, index: dict[str, Any]) -> None:
    if hashlib.sha256((path / "index.npz").read_bytes()).hexdigest() != index["index_sha256"]:
        raise DataError(f"{path / 'index.npz'} has changed since it was packed; pack it again")
    row_bytes = index["plan"]["size"] ** 2 * 3
    with (path / "frames.u8").open("rb") as file:
        for shard, expected in enumerate(index["shard_sha256"]):
            if hashlib.sha256(file.read(index["shard_frames"] * row_bytes)).hexdigest() != expected:
                first = shard * index["shard_frames"]
                raise DataError(
                    f"{path}: the frames from {first} on have changed since they were packed; pack it again"
                )
