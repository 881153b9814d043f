"""The batch scorer: inspection videos in, findings out, one folder each and a summary of all.

    OUT/<video>/...    see `serving.inspections.deliverables`
    OUT/...            see `serving.inspections.batch_files`
    OUT/.locks/...     who works on what: several processes may share a batch, each video is scored by one of them

A video that is done is known by its content, the pair and the settings, and is not scored again; a page that a kill
left missing or old is written by the next call. One that fails is reported and does not stop the others. The videos
themselves are only read.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from serving.durable import sha256_file
from serving.errors import ConfigError
from serving.file_lock import locked
from serving.inspections.batch_files import remove_manifest, write_manifest, write_summary
from serving.inspections.frame_scorer import FrameScorer
from serving.inspections.video import VIDEO_SUFFIXES, VideoInfo
from serving.inspections.video_result import VideoResult
from serving.inspections.video_scoring import Batch, Footage, holds_another, score_or_fail
from serving.inspections.video_settings import HANG_S, VideoSettings
from serving.report.write import write_index

LOCKS = ".locks"

_SUMMARY_EVERY_S = 10.0

Name = tuple[str, tuple[str, ...]]
"""Of a video: without its ending, and the parts of the whole path."""

V = TypeVar("V")
Turn = tuple[int, V, Path]
"""Place in the batch, video, and the folder of its results."""


def find_videos(paths: Sequence[Path], *, recursive: bool = True) -> list[Path]:
    """The video files named, whatever their ending, and those in the folders named, each once, in order.

    Raises `ConfigError` if a path does not exist, or if there is no video at all.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = path.rglob("*") if recursive else path.iterdir()
            found |= dict.fromkeys(sorted(p for p in inside if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()))
        elif path.exists():
            found[path] = None
        else:
            raise ConfigError(f"{path}: no such file or folder")
    if not found:
        named = ", ".join(map(str, paths))
        raise ConfigError(f"no videos in {named} (looked for {', '.join(sorted(VIDEO_SUFFIXES))})")
    return list(found)


def output_folders(videos: Sequence[Path], out: Path) -> list[Path]:
    """A folder under `out` for each video, its own also across calls: see `free_folders`."""
    names = [(video.stem, video.resolve().parts[1:]) for video in videos]
    return free_folders(names, out, lambda place, folder: _is_free_for(videos[place], folder))


def free_folders(videos: Sequence[Name], out: Path, is_free: Callable[[int, Path], bool]) -> list[Path]:
    """A folder under `out` for each video.

    It is named after the video; where several share a name, with its ending, then with the folders above it. A number
    is appended where `is_free`, asked with the video's place, says that it holds the findings of another video.
    """
    taken: set[str] = set()
    folders = []
    for place, name in enumerate(_distinct_names(videos)):
        candidate, copy = name, 2
        # Case does not tell names apart on every file system.
        while candidate.casefold() in taken or not is_free(place, out / candidate):
            candidate, copy = f"{name}-{copy}", copy + 1
        taken.add(candidate.casefold())
        folders.append(out / candidate)
    return folders


def _distinct_names(videos: Sequence[Name]) -> list[str]:
    """For each, the first of `x`, `x.mpg`, `folder-x.mpg`, ... that no other of the videos is called as well."""
    names: dict[Name, str] = {}
    depth = 0
    while len(names) < len(set(videos)):
        counts = Counter(_name(video, depth).casefold() for video in set(videos))
        deepest = depth > max(len(parts) for _, parts in videos) + 1
        for video in videos:
            name = _name(video, depth)
            if video not in names and (counts[name.casefold()] == 1 or deepest):
                names[video] = name
        depth += 1
    return [names[video] for video in videos]


def _name(video: Name, depth: int) -> str:
    """`depth` last parts of the path, 0 for the name without its ending."""
    stem, parts = video
    return "-".join(parts[-depth:]) if depth else stem


def _is_free_for(video: Path, folder: Path) -> bool:
    try:
        # A video that was moved or copied has the same findings.
        return not holds_another(folder, Footage.of(video), lambda: sha256_file(video))
    except OSError:
        return False


def score_videos(
    videos: Sequence[Path],
    out: Path,
    scorer: FrameScorer,
    settings: VideoSettings,
    *,
    hang_s: float = HANG_S,
    on_start: Callable[[Path, VideoInfo], None] = lambda video, info: None,
    on_sample: Callable[[Path, float], None] = lambda video, time_s: None,
    on_done: Callable[[VideoResult], None] = lambda result: None,
) -> list[VideoResult]:
    """Score every video, write its folder under `out`, then the files of the batch; results in the order of `videos`.

    A video that cannot be read, or scored now, becomes a result with status `failed`. Raises
    `OperatingPointNotFoundError`, and `ConfigError` if `out` cannot be written or `hang_s` is no such time.

    Args:
        hang_s: see `serving.inspections.video_settings`.
        on_start: called with each video that is about to be scored.
        on_sample: called with the video and the time, in seconds from its start, of each sampled frame.
        on_done: called with each video's result.
    """
    batch = Batch.of(scorer, settings, hang_s, on_start, on_sample)
    return write_batch(out, batch.key, _score_in_turn(videos, out, batch), on_done)


def write_batch(
    out: Path,
    scoring: Mapping[str, Any],
    results: Iterable[tuple[int, VideoResult]],
    on_done: Callable[[VideoResult], None],
    *,
    sha256: Callable[[Path], str] = sha256_file,
) -> list[VideoResult]:
    """Take the results as they are made, each with its place, and write the files of the batch; results by place.

    No video is begun before the manifest of an earlier call is away. `sha256` is asked for the hashes of results.
    Raises `ConfigError` if `out` cannot be written.
    """
    done: dict[int, VideoResult] = {}
    started_s = written_s = time.monotonic()
    try:
        remove_manifest(out)
        for place, result in results:
            done[place] = result
            on_done(result)
            if time.monotonic() - written_s > _SUMMARY_EVERY_S:
                write_summary(out, _in_order(done), scoring)
                written_s = time.monotonic()
        in_order = _in_order(done)
        write_summary(out, in_order, scoring)
        write_index(out)
        write_manifest(out, in_order, scoring, seconds=time.monotonic() - started_s, sha256=sha256)
    except OSError as error:
        raise ConfigError(f"cannot write to {out}: {error.strerror or error}") from error
    return in_order


def _score_in_turn(videos: Sequence[Path], out: Path, batch: Batch) -> Iterator[tuple[int, VideoResult]]:
    folders = output_folders(videos, out)
    for place, video, folder in turns(list(zip(range(len(videos)), videos, folders, strict=True)), out):
        yield place, score_or_fail(Footage.of(video), folder, batch)


def turns(todo: Sequence[Turn[V]], out: Path) -> Iterator[Turn[V]]:
    """Each in turn, held while the caller has it.

    What another process works on comes last, when there is nothing else to do; by then it is likely done.
    """
    later = []
    for turn in todo:
        with locked(out / LOCKS / turn[2].name, wait=False) as mine:
            if mine:
                yield turn
            else:
                later.append(turn)
    for turn in later:
        with locked(out / LOCKS / turn[2].name, wait=True):
            yield turn


def _in_order(done: Mapping[int, VideoResult]) -> list[VideoResult]:
    return [done[place] for place in sorted(done)]
