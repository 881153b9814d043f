"""The batch scorer: inspection videos in, findings out, one folder each and a summary of all.

    OUT/<video>/findings.json   what was scored with what, what became of every picture, the findings
    OUT/<video>/findings.csv    the findings as rows of observations
    OUT/<video>/frames.csv      every sampled frame: pts_s, score
    OUT/<video>/peak_001.jpg    the peak frame of each finding under its evidence; peak_001_bare.jpg without it
    OUT/<video>/report.html     the above as a page for people, made from it
    OUT/summary.json  summary.csv  index.html

`findings.json` is written last, and the pages from it: a folder that has it is complete, and pages that a kill left
missing or old are written by the next call. A video that is done is known by its content, the
pair and the settings, and is not scored again. One that fails is reported and does not stop the others. The
videos themselves are only read.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from serving.durable import sha256_file, write_bytes_atomic, write_json_atomic
from serving.errors import ConfigError, VideoError
from serving.findings import FindingRules, find_findings, leave_for
from serving.formats import csv_rows, json_file
from serving.formats.observation import Origin, clock_time, observe
from serving.pair import MANIFEST_FILE, OperatingPoint
from serving.prefetch import prefetch
from serving.report.data import REPORT_FILE
from serving.report.write import write_index, write_video_report
from serving.scorer import Scorer
from serving.thumbnails import PeakPictures, bare_name
from serving.video import VIDEO_SUFFIXES, VideoInfo, VideoReader, unscored_stretches
from serving.video_settings import VideoSettings

# Frames a batch and batches that wait. More of either only holds memory: a waiting frame keeps its whole picture.
_BATCH = 16
_BATCHES_AHEAD = 2
_SUMMARY_EVERY_S = 10.0

Status = Literal["scored", "kept", "failed"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """What became of one video: a row of the summary.

    Attributes:
        status: `scored`, `kept` (it was done before) or `failed`, for the `reason`.
        complete: whether no stretch of it went unscored; what did is in `reason`.
        seconds_taken: for decoding and scoring, now; 0 if it was kept.
    """

    video: str
    status: Status
    folder: Path
    complete: bool = False
    findings: int = 0
    peak_score: float | None = None
    duration_s: float | None = None
    frames: int = 0
    frames_decoded: int = 0
    frames_sampled: int = 0
    frames_skipped: int = 0
    frames_corrupt: int = 0
    strategy: str = ""
    seconds_taken: float = 0.0
    video_sha256: str = ""
    reason: str = ""


SUMMARY_COLUMNS = tuple(each.name for each in fields(VideoResult))


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
    """A folder under `out` for each video, its own also across calls.

    It is named after the video; where several share a name, with its ending, then with the folders above it. A
    folder that holds the findings of another video is left to it, and a number is appended.
    """
    names = _distinct_names(videos)
    taken: set[str] = set()
    folders = []
    for video, name in zip(videos, names, strict=True):
        candidate, copy = name, 2
        # Case does not tell names apart on every file system.
        while candidate.casefold() in taken or not _is_free_for(video, out / candidate):
            candidate, copy = f"{name}-{copy}", copy + 1
        taken.add(candidate.casefold())
        folders.append(out / candidate)
    return folders


def _distinct_names(videos: Sequence[Path]) -> list[str]:
    """For each, the first of `x`, `x.mpg`, `folder-x.mpg`, ... that no other of the videos is called as well."""
    names: dict[Path, str] = {}
    depth = 0
    while len(names) < len(set(videos)):
        counts = Counter(_name(video, depth).casefold() for video in set(videos))
        deepest = depth > max(len(video.resolve().parts) for video in videos)
        for video in videos:
            name = _name(video, depth)
            if video not in names and (counts[name.casefold()] == 1 or deepest):
                names[video] = name
        depth += 1
    return [names[video] for video in videos]


def _name(video: Path, depth: int) -> str:
    """`depth` last parts of the path, 0 for the name without its ending."""
    return "-".join(video.resolve().parts[1:][-depth:]) if depth else video.stem


def _is_free_for(video: Path, folder: Path) -> bool:
    earlier = _read_findings(folder)
    if earlier is None or earlier.get("video_path") == str(video.resolve()):
        return True
    try:
        return bool(earlier.get("video_sha256") == sha256_file(video))  # moved or copied: the same findings
    except OSError:
        return False


def score_videos(
    videos: Sequence[Path],
    out: Path,
    scorer: Scorer,
    settings: VideoSettings,
    *,
    on_start: Callable[[Path, VideoInfo], None] = lambda video, info: None,
    on_sample: Callable[[Path, float], None] = lambda video, time_s: None,
    on_done: Callable[[VideoResult], None] = lambda result: None,
) -> list[VideoResult]:
    """Score every video, write its folder under `out`, then the summary; results in the order of `videos`.

    A video that cannot be read becomes a result with status `failed`. Raises `OperatingPointNotFoundError`, and
    `ConfigError` if `out` cannot be written.

    Args:
        on_start: called with each video that is about to be scored.
        on_sample: called with the video and the time, in seconds from its start, of each scored frame.
        on_done: called with each video's result.
    """
    batch = _Batch.of(scorer, settings, on_start, on_sample)
    results: list[VideoResult] = []
    written_s = time.monotonic()
    try:
        for video, folder in zip(videos, output_folders(videos, out), strict=True):
            result = _score_or_fail(video, folder, batch)
            if result.status != "failed":
                write_video_report(folder)
            results.append(result)
            on_done(result)
            if time.monotonic() - written_s > _SUMMARY_EVERY_S:
                _write_summary(out, results, batch)
                written_s = time.monotonic()
        _write_summary(out, results, batch)
        write_index(out)
    except OSError as error:
        raise ConfigError(f"cannot write to {out}: {error.strerror or error}") from error
    return results


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """What all videos of one call share; `key` is all that, besides a video's content, decides what is found."""

    scorer: Scorer
    every_s: float
    point: OperatingPoint
    rules: FindingRules
    key: dict[str, Any]
    on_start: Callable[[Path, VideoInfo], None]
    on_sample: Callable[[Path, float], None]

    @classmethod
    def of(
        cls,
        scorer: Scorer,
        settings: VideoSettings,
        on_start: Callable[[Path, VideoInfo], None],
        on_sample: Callable[[Path, float], None],
    ) -> _Batch:
        point = scorer.pair.manifest.operating_point(settings.operating_point)
        rules = FindingRules(
            enter=point.threshold,
            leave=leave_for(point.threshold),
            min_duration_s=settings.min_duration_s,
            join_gap_s=settings.join_gap_s,
        )
        key = {
            "pair": scorer.pair.name,
            "pair_version": scorer.pair.version,
            # The manifest names the SHA-256 of every other file of the pair.
            "pair_sha256": sha256_file(scorer.pair.path / MANIFEST_FILE),
            "variant": scorer.variant,
            "device": scorer.device.partition(":")[0],
            "operating_point": point.name,
            "every_s": settings.every_s,
            **asdict(rules),
        }
        return cls(
            scorer=scorer,
            every_s=settings.every_s,
            point=point,
            rules=rules,
            key=key,
            on_start=on_start,
            on_sample=on_sample,
        )


def _score_or_fail(video: Path, folder: Path, batch: _Batch) -> VideoResult:
    try:
        reader = VideoReader(video, every_s=batch.every_s, size=batch.scorer.pair.manifest.image_size)
        sha256 = _sha256(video)
        result = _kept(video, folder, sha256, batch)
        if result is None:
            batch.on_start(video, reader.info)
            result = _score(reader, folder, sha256, batch)
        return result
    except VideoError as error:
        return VideoResult(video=str(video), status="failed", folder=folder, reason=str(error))


def _sha256(video: Path) -> str:
    try:
        return sha256_file(video)
    except OSError as error:
        raise VideoError(f"{video} cannot be read: {error.strerror or error}") from error


def _read_findings(folder: Path) -> dict[str, Any] | None:
    """`findings.json` of an earlier call, None if there is none that this release wrote."""
    try:
        earlier = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(earlier, dict) or earlier.get("schema") != json_file.SCHEMA:
        return None
    return earlier


def _kept(video: Path, folder: Path, sha256: str, batch: _Batch) -> VideoResult | None:
    """The result of an earlier call over the same content with the same pair and settings, if all of it is there."""
    earlier = _read_findings(folder)
    if earlier is None or earlier["video_sha256"] != sha256 or earlier["scoring"] != batch.key:
        return None
    photos = [each["photo"] for each in earlier["findings"]]
    files = ["findings.csv", "frames.csv", *photos, *map(bare_name, photos)]
    if not all((folder / file).is_file() for file in files):
        return None
    return _result(video, folder, "kept", earlier)


def _score(reader: VideoReader, folder: Path, sha256: str, batch: _Batch) -> VideoResult:
    started_s = time.monotonic()
    calibration = batch.scorer.pair.manifest.calibration
    with PeakPictures(enter=batch.rules.enter, step_s=batch.every_s, calibration=calibration) as peaks:
        times_s, scores = _score_samples(reader, peaks, batch)
        # A video with fewer frames than were asked for is sampled at its own pace.
        step_s = max(batch.every_s, reader.counts.spacing_s or 0.0)
        findings = find_findings(times_s, scores, batch.rules, step_s=step_s)
        origin = Origin(
            video=reader.path.name,
            video_sha256=sha256,
            operating_point=batch.point.name,
            threshold=batch.point.threshold,
            pair=batch.scorer.pair.name,
            pair_version=batch.scorer.pair.version,
        )
        photos = {f"peak_{number:03d}.jpg": each for number, each in enumerate(findings, start=1)}
        observations = [observe(finding, origin, photo) for photo, finding in photos.items()]
        _clear(folder)
        for photo, finding in photos.items():
            write_bytes_atomic(folder / photo, peaks.jpeg_at(finding.peak_s))
            write_bytes_atomic(folder / bare_name(photo), peaks.bare_jpeg_at(finding.peak_s))
    rows = [{"pts_s": f"{t:.3f}", "score": f"{s:.6f}"} for t, s in zip(times_s, scores, strict=True)]
    csv_rows.write_rows(folder / "frames.csv", ("pts_s", "score"), rows)
    csv_rows.write_observations(folder / "findings.csv", observations)
    about = {
        **_describe(reader, times_s, step_s),
        "video_sha256": sha256,
        "scoring": batch.key,
        "peak_score": round(max(scores), 6),
    }
    written = json_file.write_findings(folder / "findings.json", about, observations)
    seconds_taken = round(time.monotonic() - started_s, 3)
    return _result(reader.path, folder, "scored", written, seconds_taken=seconds_taken)


def _score_samples(reader: VideoReader, peaks: PeakPictures, batch: _Batch) -> tuple[list[float], list[float]]:
    """Times and scores of all samples; decoding runs ahead in a thread while this one scores."""
    times_s: list[float] = []
    scores: list[float] = []
    with closing(prefetch(_chunks(reader, _BATCH), ahead=_BATCHES_AHEAD)) as chunks:
        for samples in chunks:
            scored = batch.scorer.score(np.stack([sample.frame for sample in samples]))
            for sample, score, evidence in zip(samples, scored.score.tolist(), scored.evidence, strict=True):
                times_s.append(sample.pts_s)
                scores.append(score)
                peaks.see(sample, score, evidence)
                batch.on_sample(reader.path, sample.pts_s)
    return times_s, scores


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _describe(reader: VideoReader, times_s: Sequence[float], step_s: float) -> dict[str, Any]:
    info, counts = reader.info, reader.counts
    unscored = unscored_stretches(times_s, step_s=step_s, info=info, counts=counts)
    return {
        "video": reader.path.name,
        "video_path": str(reader.path.resolve()),
        "duration_s": round(max(counts.last_picture_s, info.duration_s or 0.0), 3),
        "reading": {
            "container": info.container,
            "codec": info.codec,
            "width": info.width,
            "height": info.height,
            "sample_aspect": f"{info.sample_aspect.numerator}:{info.sample_aspect.denominator}",
            "frame_rate": info.frame_rate,
            "start_pts_s": info.start_s,
            "step_s": step_s,
            **asdict(counts),
        },
        "unscored": [asdict(stretch) for stretch in unscored],
    }


def _clear(folder: Path) -> None:
    """Remove what an earlier call left here, the mark of completeness first."""
    (folder / "findings.json").unlink(missing_ok=True)
    (folder / REPORT_FILE).unlink(missing_ok=True)
    for photo in folder.glob("peak_*.jpg"):
        photo.unlink()


def _result(
    video: Path, folder: Path, status: Status, written: dict[str, Any], *, seconds_taken: float = 0.0
) -> VideoResult:
    reading = written["reading"]
    spans = (f"{clock_time(each['start_s'])} to {clock_time(each['end_s'])}" for each in written["unscored"])
    unscored = ", ".join(spans)
    return VideoResult(
        video=str(video),
        status=status,
        folder=folder,
        complete=not unscored,
        findings=len(written["findings"]),
        peak_score=written["peak_score"],
        duration_s=written["duration_s"],
        frames=reading["pictures"],
        frames_decoded=reading["decoded"],
        frames_sampled=reading["sampled"],
        frames_skipped=reading["skipped"],
        frames_corrupt=reading["corrupt"],
        strategy=reading["strategy"],
        seconds_taken=seconds_taken,
        video_sha256=written["video_sha256"],
        reason=f"not scored: {unscored}" if unscored else "",
    )


def _write_summary(out: Path, results: Sequence[VideoResult], batch: _Batch) -> None:
    rows = [{**asdict(result), "folder": result.folder.name} for result in results]
    counts = Counter(result.status for result in results)
    csv_rows.write_rows(out / "summary.csv", SUMMARY_COLUMNS, rows)
    write_json_atomic(
        out / "summary.json",
        {
            "videos": {
                **{status: counts[status] for status in ("scored", "kept", "failed")},
                "incomplete": sum(result.status != "failed" and not result.complete for result in results),
            },
            "scoring": batch.key,
            "results": rows,
        },
    )
