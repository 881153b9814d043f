"""Videos to frames on disk, with their times, by the reader that scores videos.

    FRAMES/run-7.mpg-1f0c9a52/000012500.png    the frame at 12.5 s, at training size, as a scorer would see it
    FRAMES/run-7.mpg-1f0c9a52/frames.json      of what, times and sizes, what became of the video's pictures

A video's folder is whole or absent.

A frame is read as `serving.inspections.video` hands it out, so pixels are squashed and resized once, by the code that
serves.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from serving.durable import sha256_bytes, write_json_atomic
from serving.errors import VideoError
from serving.inspections.video import VideoReader
from training.retrain.footage import Broken, Video

FRAMES_JSON = "frames.json"


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """The frames of a video: `files` below `folder`, at `times_s` from the start, rising."""

    video: str
    folder: Path
    times_s: tuple[float, ...]
    files: tuple[str, ...]
    corrupt_pictures: int

    def names(self) -> tuple[str, ...]:
        """Unique names of the frames, which say where they come from."""
        return tuple(f"{self.video}@{time_s:.3f}s" for time_s in self.times_s)


def extract_all(
    videos: Sequence[Video], folder: Path, *, every_s: float, size: int, done: Callable[[], None]
) -> tuple[list[Extracted], list[Broken]]:
    """Extract every video into a folder of its own; those that are there already are kept.

    Args:
        videos: what to read, in an order that stays.
        folder: where to.
        every_s: most seconds between two frames, where the video has more.
        size: side of the frames, pixels.
        done: called after each video.

    Returns:
        The frames of each readable video, and the videos that turned out not to be.
    """
    extracted, broken = [], []
    for video in videos:
        target = folder / folder_name(video)
        about = _about(video, every_s, size)
        try:
            kept = read_extracted(target, about)
            extracted.append(kept or _extract(video, target, about))
        except VideoError as error:
            broken.append(Broken(name=video.name, reason=str(error)))
        done()
    return extracted, broken


def folder_name(video: Video) -> str:
    """Readable, safe on any file system, and different for different videos."""
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", video.name.rpartition("/")[2])[:60]
    return f"{readable}-{sha256_bytes(video.name.encode())[:8]}"


def _about(video: Video, every_s: float, size: int) -> dict[str, Any]:
    return {"video": video.name, "video_bytes": video.n_bytes, "every_s": every_s, "size": size}


def read_extracted(folder: Path, about: Mapping[str, Any] | None = None) -> Extracted | None:
    """What an earlier call left in `folder`; None if it is not whole, or `about` something else."""
    path = folder / FRAMES_JSON
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        sizes = [(folder / name).stat().st_size for name in record["files"]]
    except (OSError, ValueError):
        return None
    if sizes != record["bytes"] or any(record[key] != value for key, value in (about or {}).items()):
        return None
    return Extracted(
        video=record["video"],
        folder=folder,
        times_s=tuple(record["times_s"]),
        files=tuple(record["files"]),
        corrupt_pictures=record["counts"]["corrupt"],
    )


def _extract(video: Video, folder: Path, about: Mapping[str, Any]) -> Extracted:
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir(parents=True)
    try:
        reader = VideoReader(video.path, every_s=about["every_s"], size=about["size"])
        times_s: list[float] = []
        files: list[str] = []
        n_bytes: list[int] = []
        for sample in reader:
            name = f"{round(sample.pts_s * 1000):09d}.png"
            Pillow.fromarray(sample.frame).save(partial / name, compress_level=1)
            # Stamps closer than a millisecond share a name: the later picture stands.
            if files and files[-1] == name:
                times_s.pop(), files.pop(), n_bytes.pop()
            times_s.append(sample.pts_s)
            files.append(name)
            n_bytes.append((partial / name).stat().st_size)
        record = {
            **about,
            "times_s": times_s,
            "files": files,
            "bytes": n_bytes,
            "counts": asdict(reader.counts),
        }
        write_json_atomic(partial / FRAMES_JSON, record)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    extracted = read_extracted(folder, about)
    if extracted is None:
        raise VideoError(f"{folder} is not as it was written: another process is at work there, or the disk is failing")
    return extracted
