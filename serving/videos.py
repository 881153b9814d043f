"""The batch scorer: inspection videos in, findings out, one folder each and a summary of all.

    OUT/<video>/findings.json  findings.csv  frames.csv  peak_*.jpg
    OUT/summary.json  OUT/summary.csv

A video that is done is known by its content, the pair and the settings, and is not scored again. One that fails is
reported and does not stop the others. The videos themselves are only read.
"""

from __future__ import annotations

import io
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.durable import sha256_file, write_bytes_atomic, write_json_atomic
from serving.errors import ConfigError, VideoError
from serving.findings import Finding, FindingRules, find_findings, leave_for
from serving.formats import csv_rows, json_file
from serving.formats.observation import Observation, Origin, observe
from serving.manifest import OperatingPoint
from serving.overlay import draw_evidence
from serving.scorer import Scorer
from serving.video import VIDEO_SUFFIXES, Sample, VideoReader

BATCH = 16
BATCHES_AHEAD = 3
PHOTO_QUALITY = 88
SUMMARY_COLUMNS = (
    "video",
    "status",
    "findings",
    "peak_score",
    "duration_s",
    "frames_sampled",
    "frames_corrupt",
    "seconds_taken",
    "video_sha256",
    "reason",
)


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """How inspections are sampled and what makes a finding; `operating_point` None is the pair's own."""

    every_s: float = 0.5
    operating_point: str | None = None
    min_duration_s: float = 1.0
    join_gap_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0.01 <= self.every_s <= 60:
            raise ConfigError(f"--every {self.every_s} is not within 0.01 to 60 seconds")


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """What became of one video; `status` is scored, kept (it was done before) or failed."""

    video: str
    status: str
    folder: Path
    video_sha256: str = ""
    findings: int = 0
    peak_score: float | None = None
    duration_s: float | None = None
    frames_sampled: int = 0
    frames_corrupt: int = 0
    seconds_taken: float = 0.0
    reason: str = ""


@dataclass(kw_only=True)
class _Track:
    """Everything that one pass over a video leaves."""

    times_s: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    photos: dict[float, bytes] = field(default_factory=dict)


def find_videos(paths: Sequence[Path], *, recursive: bool = True) -> list[Path]:
    """The video files named, and those in the folders named, each once, in order.

    Raises:
        ConfigError: a path does not exist, or there is no video at all.
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
        raise ConfigError(f"no videos found; pipeprobe looks for {', '.join(sorted(VIDEO_SUFFIXES))}")
    return list(found)


def output_folders(videos: Sequence[Path], out: Path) -> list[Path]:
    """One folder under `out` for each video: its name, and a number behind it where several share one."""
    used: dict[str, int] = {}
    folders = []
    for video in videos:
        name = video.stem if sum(v.stem == video.stem for v in videos) == 1 else video.name
        used[name] = used.get(name, 0) + 1
        folders.append(out / (name if used[name] == 1 else f"{name}-{used[name]}"))
    return folders


def score_videos(
    videos: Sequence[Path],
    out: Path,
    scorer: Scorer,
    settings: VideoSettings,
    *,
    on_sample: Callable[[Path, float], None] = lambda video, time_s: None,
    on_done: Callable[[VideoResult], None] = lambda result: None,
) -> list[VideoResult]:
    """Score every video and write its folder, then the summary.

    Args:
        on_sample: called with the video and the time of each sampled frame.
        on_done: called with each video's result.
    """
    point = scorer.pair.manifest.operating_point(settings.operating_point)
    results = []
    for video, folder in zip(videos, output_folders(videos, out), strict=True):
        started = time.monotonic()
        try:
            result = _score_video(video, folder, scorer, settings, point, on_sample, started)
        except (VideoError, OSError) as error:
            result = VideoResult(video=str(video), status="failed", folder=folder, reason=str(error))
        results.append(result)
        on_done(result)
        _write_summary(out, results)
    return results


def _score_video(
    video: Path,
    folder: Path,
    scorer: Scorer,
    settings: VideoSettings,
    point: OperatingPoint,
    on_sample: Callable[[Path, float], None],
    started: float,
) -> VideoResult:
    reader = VideoReader(video, every_s=settings.every_s, size=scorer.pair.manifest.image_size)
    manifest = scorer.pair.manifest
    key = {
        "video": str(video),
        "video_sha256": sha256_file(video),
        "pair": manifest.name,
        "pair_version": manifest.version,
        "pair_sha256": manifest.files[manifest.variants[scorer.variant].file],
        "variant": scorer.variant,
        "operating_point": point.name,
        "threshold": point.threshold,
        "settings": asdict(settings),
    }
    kept = _kept(folder, key, video)
    if kept is not None:
        return kept
    rules = FindingRules(
        enter=point.threshold,
        leave=leave_for(point.threshold),
        min_duration_s=settings.min_duration_s,
        join_gap_s=settings.join_gap_s,
    )
    track = _score_samples(reader, scorer, rules, lambda time_s: on_sample(video, time_s))
    step_s = (
        max(settings.every_s, reader.info.keyframe_spacing_s or 0)
        if reader.strategy == "keyframes"
        else settings.every_s
    )
    findings = find_findings(track.times_s, track.scores, rules, step_s=step_s)
    return _write_video(video, folder, key, reader, track, findings, time.monotonic() - started)


def _kept(folder: Path, key: dict[str, Any], video: Path) -> VideoResult | None:
    """The result of an earlier run over the same content with the same pair and settings."""
    try:
        earlier = json.loads((folder / "findings.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None
    if any(earlier.get(name) != value for name, value in key.items() if name != "video"):
        return None
    return VideoResult(
        video=str(video),
        status="kept",
        folder=folder,
        video_sha256=key["video_sha256"],
        findings=len(earlier["findings"]),
        peak_score=earlier["peak_score"],
        duration_s=earlier["duration_s"],
        frames_sampled=earlier["frames"]["sampled"],
        frames_corrupt=earlier["frames"]["corrupt"],
    )


def _score_samples(
    reader: VideoReader, scorer: Scorer, rules: FindingRules, on_time: Callable[[float], None]
) -> _Track:
    """Decode in a thread, score here; what waits in between is bounded."""
    track = _Track()
    photographer = _Photographer(scorer, rules.leave)
    for batch in _batches_ahead(reader):
        scores = scorer.score(np.stack([sample.frame for sample in batch]))
        for i, sample in enumerate(batch):
            score = float(scores.score[i])
            track.times_s.append(sample.pts_s)
            track.scores.append(score)
            photographer.see(sample, score, scores.evidence[i])
            on_time(sample.pts_s)
    track.photos = photographer.finish()
    return track


class _Photographer:
    """Keeps the picture with the highest score of each run at or above `leave`; a finding's peak is one of them."""

    def __init__(self, scorer: Scorer, leave: float) -> None:
        self._calibration = scorer.pair.manifest.calibration
        self._leave = leave
        self._best: tuple[float, Sample, NDArray[np.float32]] | None = None
        self._photos: dict[float, bytes] = {}

    def see(self, sample: Sample, score: float, evidence: NDArray[np.float32]) -> None:
        if score < self._leave:
            self._close()
        elif self._best is None or score > self._best[0]:
            self._best = (score, sample, evidence)

    def finish(self) -> dict[float, bytes]:
        """JPEG bytes by the time of the picture."""
        self._close()
        return self._photos

    def _close(self) -> None:
        if self._best is None:
            return
        _, sample, evidence = self._best
        picture = draw_evidence(_display_shape(sample.picture), evidence, self._calibration)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="JPEG", quality=PHOTO_QUALITY)
        self._photos[sample.pts_s] = buffer.getvalue()
        self._best = None


def _display_shape(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A single field is half as high as the picture; bring it back to 4:3, the shape that interlaced video has."""
    height, width = picture.shape[:2]
    if width < 2 * height:
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, width * 3 // 4)))


def _batches_ahead(reader: VideoReader) -> Iterator[list[Sample]]:
    """Batches of samples, decoded in a thread a few batches ahead of their use."""
    ready: queue.Queue[list[Sample] | BaseException | None] = queue.Queue(maxsize=BATCHES_AHEAD)
    stopped = threading.Event()

    def put(item: list[Sample] | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def decode() -> None:
        try:
            batch: list[Sample] = []
            for sample in reader:
                batch.append(sample)
                if len(batch) == BATCH:
                    put(batch)
                    batch = []
                if stopped.is_set():
                    return
            if batch:
                put(batch)
            put(None)
        except BaseException as error:  # handed on to the thread that scores
            put(error)

    thread = threading.Thread(target=decode, name="video-decoder", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _write_video(
    video: Path,
    folder: Path,
    key: dict[str, Any],
    reader: VideoReader,
    track: _Track,
    findings: Sequence[Finding],
    seconds_taken: float,
) -> VideoResult:
    """Write the folder, findings.json last: a folder that has it is complete."""
    origin = Origin(
        video=video.name,
        video_sha256=key["video_sha256"],
        operating_point=key["operating_point"],
        threshold=key["threshold"],
        pair=key["pair"],
        pair_version=key["pair_version"],
    )
    observations: list[Observation] = []
    for number, finding in enumerate(findings, start=1):
        photo = f"peak_{number:03d}.jpg"
        write_bytes_atomic(folder / photo, track.photos[finding.peak_s])
        observations.append(observe(finding, origin, photo))
    rows = [{"pts_s": f"{t:.3f}", "score": f"{s:.6f}"} for t, s in zip(track.times_s, track.scores, strict=True)]
    csv_rows.write_rows(folder / "frames.csv", ("pts_s", "score"), rows)
    csv_rows.write_observations(folder / "findings.csv", observations)
    peak = max(track.scores)
    about = {
        **key,
        "duration_s": round(reader.end_s, 3),
        "peak_score": round(peak, 6),
        "reading": {**asdict(reader.info), "strategy": reader.strategy},
        "frames": reader.counts.to_json(),
    }
    json_file.write_findings(folder / "findings.json", about, observations)
    return VideoResult(
        video=str(video),
        status="scored",
        folder=folder,
        video_sha256=key["video_sha256"],
        findings=len(findings),
        peak_score=about["peak_score"],
        duration_s=about["duration_s"],
        frames_sampled=reader.counts.sampled,
        frames_corrupt=reader.counts.corrupt,
        seconds_taken=round(seconds_taken, 3),
    )


def _write_summary(out: Path, results: Sequence[VideoResult]) -> None:
    rows = [{name: getattr(result, name) for name in SUMMARY_COLUMNS} for result in results]
    csv_rows.write_rows(out / "summary.csv", SUMMARY_COLUMNS, rows)
    statuses = [result.status for result in results]
    totals = {status: statuses.count(status) for status in ("scored", "kept", "failed")}
    write_json_atomic(out / "summary.json", {"videos": totals, "results": rows})
