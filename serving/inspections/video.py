"""Inspection videos to frames with exact times: sparse, at the least cost, with every picture accounted for.

**Time** is the presentation time stamp minus the stream's start time, so the first picture is at 0 s although MPEG
program streams begin anywhere. Stamps that jump back, as in recordings glued together, continue where the last
part ended; stamps that stand still, or lie beyond the end that the file declares, are taken for damage and replaced by
the frame rate's.

**Sampling** keeps the fewest pictures between which no more than `every_s` passes, plus the last one. Where the
video's own pictures are farther apart than that (few frames a second, or lost ones), each of them is kept.

**Cost.** Only a keyframe can be decoded alone; all else needs everything since the last keyframe. For each group
of pictures, from one keyframe to the next, the reader therefore waits until it knows how long the group is. Up to
`every_s`, its keyframe is enough and the rest is never decoded. If it is longer, the group is decoded in sequence,
except for pictures that no other one refers to, which the decoder skips. It never seeks: on groups of 250 pictures,
a seek a sample costs more than decoding everything. `strategy` says which of the two was used.

**Counts.** Every picture that the container delivers meets exactly one fate: decoded, skipped or corrupt. Corrupt
ones (the decoder refuses them or flags the result) are never handed out; their times are reported. A reader that goes
on where another one was lost (`Resume`) leaves those in between without a fate: they are lost.

Shape legend: S side of the square frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from serving.errors import VideoError
from serving.frames import Frame, resize_frame
from serving.inspections.pictures import Picture, PictureTaker, sample_aspect_of
from serving.inspections.video_counts import Counts, Resume, Stretch, Tally
from serving.inspections.video_decoding import TOLERANCE_S, Candidate, Clock, Decoder, Ticket, plan

__all__ = [
    "VIDEO_SUFFIXES",
    "Counts",
    "PictureReader",
    "Resume",
    "Sample",
    "Stretch",
    "VideoInfo",
    "VideoReader",
    "check_file",
    "open_video",
    "to_sample",
    "unscored_stretches",
]

VIDEO_SUFFIXES = frozenset(
    {
        *(".mpg", ".mpeg", ".mp2", ".mp4", ".avi", ".mov", ".wmv", ".mkv", ".ts", ".m4v"),
        *(".m2v", ".m2ts", ".mts", ".vob", ".asf", ".webm"),
    }
)
"""File name endings (lower case) under which folders are searched for videos; bytes decide the format."""

# Only containers that lie in one file: playlists would make FFmpeg open whatever a file's content names, and text
# and picture files count as videos for it.
_CONTAINERS = "mpeg,mpegts,mpegvideo,m4v,h264,hevc,mov,avi,asf,matroska,flv,mxf,dv,ogg"

_COPY_AGAIN = "copy it again from where it was recorded"


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video declares about itself.

    Attributes:
        container, codec: FFmpeg's names.
        width, height: of a picture, in its own pixels.
        sample_aspect: width over height of one pixel.
        frame_rate: pictures a second; None if it does not say.
        start_s: presentation time of the first picture, which becomes 0 s; None if it does not say.
        duration_s: None if it does not say, as raw streams do not.
    """

    path: Path
    container: str
    codec: str
    width: int
    height: int
    sample_aspect: Fraction
    frame_rate: float | None
    start_s: float | None
    duration_s: float | None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sampled frame: seconds from the start, uint8 [S, S, 3] for the scorer, and the picture it was made of."""

    pts_s: float
    frame: Frame
    picture: Picture


def check_file(path: Path) -> None:
    """Raise `VideoError` unless this is a file with something in it; nothing of it is read."""
    try:
        n_bytes = path.stat().st_size
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror or error}") from error
    if not path.is_file():
        raise VideoError(f"{path} is no file; name a video, or a folder of videos")
    if n_bytes == 0:
        raise VideoError(f"{path} is empty: 0 bytes; {_COPY_AGAIN}")


def open_video(path: Path) -> VideoInfo:
    """Read what the video declares. Raises `VideoError`, naming the file and the remedy, if it is none."""
    with _open(path) as container:
        return _describe(path, container, _video_stream(path, container))


def unscored_stretches(
    times_s: Sequence[float], *, step_s: float, info: VideoInfo, counts: Counts
) -> tuple[Stretch, ...]:
    """Where a video has more than two steps, and a second, without a sample: between two, at its start or its end.

    The end is the one that the file declares, if that is later than the last picture that was found.
    """
    end_s = max(counts.last_picture_s, info.duration_s or 0.0)
    limit_s = max(1.0, 2 * step_s) + TOLERANCE_S
    marks = [0.0, *times_s, end_s]
    return tuple(Stretch(start_s=a, end_s=b) for a, b in pairwise(marks) if b - a > limit_s)


class VideoReader:
    """Frames of a video at most `every_s` seconds apart, squashed to uint8 [size, size, 3], in order of time.

    Iterate once; `counts` and `strategy` are complete when that has ended. Memory does not grow with the video but for
    some numbers per sample. Raises `VideoError` if the file is no readable video; iterating does if none of its
    pictures can be decoded.
    """

    def __init__(self, path: Path, *, every_s: float, size: int) -> None:
        if size < 1:
            raise ValueError(f"size must be positive, got {size}")
        self.path = path
        self._pictures = PictureReader(path, every_s=every_s)
        self.info = self._pictures.info
        self._size = size

    def __iter__(self) -> Iterator[Sample]:
        for pts_s, picture in self._pictures:
            yield to_sample(self.path, pts_s, picture, self._size)

    @property
    def counts(self) -> Counts:
        """What has become of the pictures so far."""
        return self._pictures.tally.counts()


def to_sample(path: Path, pts_s: float, picture: Picture, size: int) -> Sample:
    """A picture of a video, resized for the scorer. Raises `VideoError` if it cannot be converted to RGB."""
    with _convertible(path, picture.raw):
        return Sample(pts_s=pts_s, frame=resize_frame(picture.to_rgb(), size), picture=picture)


@contextmanager
def _convertible(path: Path, frame: VideoFrame) -> Iterator[None]:
    try:
        yield
    except (FFmpegError, ValueError) as error:
        raise VideoError(
            f"{path}: pictures of {frame.width} x {frame.height} in {frame.format.name} cannot be converted to RGB "
            f"({error}); convert the video, for example to H.264"
        ) from error


class PictureReader:
    """What `VideoReader` reads before it is resized: times and pictures. `tally` keeps the books.

    Args:
        resume: where to go on in the place of a reader that was lost.
        on_picture: called with every coded picture, a sign of life.
    """

    def __init__(
        self,
        path: Path,
        *,
        every_s: float,
        resume: Resume | None = None,
        on_picture: Callable[[], None] = lambda: None,
    ) -> None:
        if not every_s > 0:
            raise ValueError(f"every_s must be positive, got {every_s}")
        self.path = path
        self._container = _open(path)
        self._stream = _video_stream(path, self._container)
        self.info = _describe(path, self._container, self._stream)
        self._every_s = every_s
        self._resume = resume
        self._on_picture = on_picture
        self.tally = Tally()

    def __iter__(self) -> Iterator[tuple[float, Picture]]:
        with self._container as container:
            taker = PictureTaker(self.info.sample_aspect)
            for candidate in self._chosen(container, self._stream):
                assert candidate.frame is not None
                with _convertible(self.path, candidate.frame):
                    picture = taker.take(candidate.frame)
                self.tally.times_s.append(candidate.time_s)
                yield candidate.time_s, picture
        if not self.tally.times_s and self._resume is None:
            raise VideoError(
                f"{self.path}: none of its {self.tally.ledger.received} pictures can be decoded; "
                f"the file is damaged or was never finished: {_COPY_AGAIN}"
            )

    def _chosen(self, container: InputContainer, stream: VideoStream) -> Iterator[Candidate]:
        """The pictures to sample, decoded: of the candidates, each that is the last before a gap over `every_s`."""
        decoder = Decoder(stream, self.tally.ledger, every_s=self._every_s, frame_rate=self.info.frame_rate)
        last_s: float | None = None
        held: Candidate | None = None
        for candidate in self._candidates(container, stream, decoder):
            if held is not None:
                if last_s is None or candidate.time_s - last_s > self._every_s + TOLERANCE_S:
                    decoded = _decode_held(held, decoder)
                    if decoded is not None:
                        last_s = decoded.time_s
                        yield decoded
                elif held.ticket is not None:
                    self.tally.ledger.settle(held.ticket.time_s, "skipped")
            held = None if candidate.frame is None and candidate.ticket is None else candidate
        if held is not None and (decoded := _decode_held(held, decoder)) is not None:
            yield decoded

    def _candidates(self, container: InputContainer, stream: VideoStream, decoder: Decoder) -> Iterator[Candidate]:
        """Pictures that could be sampled, in order of time: keyframes of short groups, all of long ones."""
        for ticket, mode in plan(self._wanted(self._tickets(container, stream)), self._every_s):
            if mode == "skip":
                self.tally.ledger.settle(ticket.time_s, "skipped")
            elif mode == "alone":
                yield from decoder.drain()
                yield Candidate(time_s=ticket.time_s, ticket=ticket)
            else:
                self.tally.n_in_sequence += 1
                if decoder.idle:  # once it is busy, a keyframe that is held could no longer be decoded alone
                    yield Candidate(time_s=ticket.time_s)
                yield from decoder.send(ticket)
        yield from decoder.drain()

    def _wanted(self, tickets: Iterator[Ticket]) -> Iterator[Ticket]:
        """All, or those from the keyframe on at which a reader that goes on begins."""
        resume, begins_s = self._resume, None
        for ticket in tickets:
            if resume is not None and begins_s is None:
                if not ticket.is_keyframe or ticket.index < resume.index or ticket.time_s < resume.time_s:
                    continue
                begins_s = ticket.time_s
            # What is shown before its keyframe refers to what was not decoded.
            if begins_s is None or ticket.time_s >= begins_s:
                yield ticket

    def _tickets(self, container: InputContainer, stream: VideoStream) -> Iterator[Ticket]:
        """The container's pictures in coding order, up to where the file stops being readable."""
        info = self.info
        clock = Clock(start_s=info.start_s, duration_s=info.duration_s, frame_rate=info.frame_rate)
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:  # nothing further can be found; what is missing shows against the declared end
                return
            if packet is None:
                return
            self._on_picture()
            if packet.size == 0:  # end marker
                continue
            time_s = clock.seconds(
                presentation_s=_seconds(packet.pts, packet.time_base), decoding_s=_seconds(packet.dts, packet.time_base)
            )
            self.tally.last_picture_s = max(self.tally.last_picture_s, time_s)
            if packet.is_keyframe:
                self.tally.keyframe_times_s.append(time_s)
            yield Ticket(
                index=self.tally.ledger.received,
                time_s=time_s,
                is_keyframe=packet.is_keyframe,
                n_bytes=packet.size,
                packet=packet,
            )
            self.tally.ledger.received += 1


def _decode_held(held: Candidate, decoder: Decoder) -> Candidate | None:
    if held.ticket is None:
        return held
    frame = decoder.decode_alone(held.ticket)
    return None if frame is None else Candidate(time_s=held.time_s, frame=frame)


def _seconds(stamp: int | None, time_base: Fraction) -> float | None:
    return None if stamp is None else float(stamp * time_base)


def _open(path: Path) -> InputContainer:
    check_file(path)
    try:
        # The absolute path, since FFmpeg would take a colon in a relative one for a protocol.
        return av.open(str(path.resolve()), options={"format_whitelist": _CONTAINERS})
    except PermissionError as error:
        raise VideoError(f"{path} cannot be read: permission denied") from error
    except (FFmpegError, ValueError) as error:
        raise VideoError(f"{path} {_why_not_a_video(path)}") from error


def _why_not_a_video(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4096)
    if head[4:8] == b"ftyp":
        return (
            "is an MP4 or MOV file without its index: the recording was cut off or the copy is incomplete; "
            f"{_COPY_AGAIN}, or rebuild the index with a repair tool such as untrunc"
        )
    if b"\0" not in head and head.isascii():
        return "is a text file, not a video"
    return f"is not a video in any format that can be read (looked for {_CONTAINERS.replace(',', ', ')})"


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    # Covers of sound files are streams of one picture.
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(f"{path} has no pictures, only {kinds}; it is not an inspection video")
    stream = max(streams, key=lambda each: (each.width or 0) * (each.height or 0))
    if stream.codec_context is None:
        raise VideoError(f"{path} is coded in a way that FFmpeg cannot decode; convert it, for example to H.264")
    if not stream.width or not stream.height:
        raise VideoError(f"{path} has no decodable picture at its beginning; the file is damaged: {_COPY_AGAIN}")
    return stream


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _describe(path: Path, container: InputContainer, stream: VideoStream) -> VideoInfo:
    rate = stream.average_rate or stream.guessed_rate
    start_s = _seconds(stream.start_time, stream.time_base) if stream.time_base else None
    return VideoInfo(
        path=path,
        container=container.format.name,
        codec=stream.codec_context.name,
        width=stream.width,
        height=stream.height,
        sample_aspect=sample_aspect_of(stream),
        frame_rate=float(rate) if rate else None,
        start_s=start_s,
        duration_s=_duration_s(container, stream, start_s),
    )


def _duration_s(container: InputContainer, stream: VideoStream, start_s: float | None) -> float | None:
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration is None:
        return None
    # Matroska counts from 0 to the end, others from the first picture.
    before_s = (start_s or 0.0) if "matroska" in container.format.name else 0.0
    return max(0.0, container.duration / av.time_base - before_s)
