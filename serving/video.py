"""Inspection videos as frames with exact times: sparse, honest about what was skipped, flat in memory.

Times are seconds from the first instant of the video: presentation times less the container's start time, so MPEG
program streams, which start anywhere, count from 0 too.

Two strategies, chosen by cost. Where keyframes come at least as often as frames are wanted, only keyframes are
decoded. Otherwise everything is decoded in order, leaving out frames that no other refers to where the codec says
which; seeking to each wanted frame would decode long groups of pictures again and again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

from serving.errors import VideoError
from serving.frames import resize_frame

VIDEO_SUFFIXES = frozenset(
    {".mpg", ".mpeg", ".mp2", ".mp4", ".avi", ".mov", ".wmv", ".mkv", ".ts", ".m4v", ".vob", ".webm"}
)
# How much of a video is looked through to learn how far apart its keyframes are.
PROBE_PACKETS = 1500

Strategy = Literal["keyframes", "sequential"]


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What the container says, and what its first packets show. `duration_s` is None where nothing tells it;
    `keyframe_spacing_s` is the median over the packets looked at, None where fewer than two keyframes were seen."""

    codec: str
    width: int
    height: int
    fps: float
    duration_s: float | None
    keyframe_spacing_s: float | None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sampled frame: its time, the frame at model size (uint8 [S, S, 3]) and the picture as decoded (uint8
    [H, W, 3]; one field of it where it is interlaced)."""

    pts_s: float
    frame: NDArray[np.uint8]
    picture: NDArray[np.uint8]


@dataclass(kw_only=True)
class Counts:
    """What became of every frame of a video: `read` = `sampled` + `passed_over` + `skipped` + `corrupt`.

    `passed_over` were decoded but lie between samples; `skipped` were never decoded.
    """

    read: int = 0
    sampled: int = 0
    passed_over: int = 0
    corrupt: int = 0

    @property
    def skipped(self) -> int:
        """Frames that were not decoded, on purpose."""
        return self.read - self.sampled - self.passed_over - self.corrupt

    def to_json(self) -> dict[str, int]:
        """All five numbers."""
        return {
            "read": self.read,
            "sampled": self.sampled,
            "passed_over": self.passed_over,
            "skipped": self.skipped,
            "corrupt": self.corrupt,
        }


def open_video(path: Path) -> VideoInfo:
    """Look at a video without decoding it.

    Raises:
        VideoError: no such file, not a video, or one without a picture.
    """
    with _open(path) as container:
        stream = _video_stream(container, path)
        keys: list[float] = []
        for i, packet in enumerate(container.demux(stream)):
            if packet.is_keyframe and packet.pts is not None:
                keys.append(float(packet.pts * packet.time_base))
            if i >= PROBE_PACKETS:
                break
        gaps = [b - a for a, b in pairwise(keys) if b > a]
        duration = container.duration / av.time_base if container.duration else None
        context = stream.codec_context
        return VideoInfo(
            codec=context.name,
            width=context.width,
            height=context.height,
            fps=float(stream.average_rate or stream.base_rate or 25),
            duration_s=duration,
            keyframe_spacing_s=median(gaps) if gaps else None,
        )


def choose_strategy(info: VideoInfo, every_s: float) -> Strategy:
    """Keyframes where they come at least every `every_s` (give or take a frame), else sequential."""
    spacing = info.keyframe_spacing_s
    return "keyframes" if spacing is not None and spacing <= every_s + 0.5 / info.fps else "sequential"


class VideoReader:
    """Samples of one video, at most one every `every_s` seconds; iterate once, then read `counts`.

    A stretch that cannot be decoded costs its frames, which are counted as corrupt, and nothing else.
    """

    def __init__(self, path: Path, *, every_s: float, size: int) -> None:
        if every_s <= 0:
            raise VideoError(f"frames every {every_s} s make no sense; ask for 0.5 or so")
        self.path = path
        self.info = open_video(path)
        self.strategy = choose_strategy(self.info, every_s)
        self.counts = Counts()
        self.end_s = 0.0
        self._every_s, self._size = every_s, size

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples in the order of their times.

        Raises:
            VideoError: not a single frame could be decoded.
        """
        with _open(self.path) as container:
            stream = _video_stream(container, self.path)
            stream.thread_type = "AUTO"
            stream.codec_context.skip_frame = self._skip_rule()
            due_s = 0.0
            for time_s, frame in self._timed_frames(container, stream):
                self.end_s = max(self.end_s, time_s + 1 / self.info.fps)
                if time_s + 0.5 / self.info.fps < due_s:
                    self.counts.passed_over += 1
                    continue
                due_s = (int((time_s + 0.5 / self.info.fps) / self._every_s) + 1) * self._every_s
                picture = _picture(frame)
                self.counts.sampled += 1
                yield Sample(pts_s=time_s, frame=resize_frame(picture, self._size), picture=picture)
        if self.counts.sampled == 0:
            raise VideoError(f"{self.path}: none of its {self.counts.read} frames could be decoded")

    def _skip_rule(self) -> str:
        if self.strategy == "keyframes":
            return "NONKEY"
        return "NONREF" if self._every_s >= 3 / self.info.fps else "DEFAULT"

    def _timed_frames(self, container: Any, stream: Any) -> Iterator[tuple[float, Any]]:
        start_s: float | None = None
        for frame in self._decoded(container, stream):
            if frame.pts is None:
                time_s = self.end_s
            else:
                absolute_s = float(frame.pts * frame.time_base)
                if start_s is None:
                    first = stream.start_time
                    start_s = absolute_s if first is None else min(absolute_s, float(first * stream.time_base))
                time_s = max(0.0, absolute_s - start_s)
            yield time_s, frame

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                self.counts.read += 1
                self.counts.corrupt += 1
                return
            if packet is None:
                return
            self.counts.read += packet.size > 0
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                self.counts.corrupt += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.counts.corrupt += 1
                else:
                    yield frame


def _picture(frame: Any) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of a decoded frame; of an interlaced one the first field alone."""
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(pixels[::2]) if frame.interlaced_frame else pixels


def _open(path: Path) -> Any:
    if not path.is_file():
        raise VideoError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty")
    try:
        return av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{path} is not a video that can be read ({error})") from error


def _video_stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise VideoError(f"{path} holds no picture, only {', '.join(s.type for s in container.streams) or 'nothing'}")
    return container.streams.video[0]
