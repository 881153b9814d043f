"""Decoded pictures of a video to RGB: one field of interlaced ones, upright, and in square pixels for people.

Kept apart from the reader because pictures are held as the decoder left them (planar, subsampled, shared with the
decoder, so free) until somebody needs RGB: the scorer does for every sampled frame, a person for a few of them.

Shape legend: H W height and width of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from serving.frames import Frame

# Larger pictures are held at reduced size, so that a queue of 4K pictures does not fill the memory.
_MAX_HELD_PIXELS = 1920 * 1088

# Pixel formats whose first plane is the grey picture, a byte a pixel.
_LUMA_FIRST = frozenset(f"yuv{j}{layout}p" for j in ("", "j") for layout in ("420", "422", "444"))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One decoded picture, or one field of it, not yet converted.

    Attributes:
        raw: as the decoder left it.
        sample_aspect: width over height of a pixel of the whole picture; PAL's are 16:15 or 64:45.
        is_field: whether `raw` is one field, so half as high as the picture.
        coded_size: width and height of the whole picture in the video, however much of it `raw` still holds.
        rotation: degrees counterclockwise by which `raw` is to be turned, a multiple of 90 or ignored.
    """

    raw: VideoFrame
    sample_aspect: Fraction
    is_field: bool
    coded_size: tuple[int, int]
    rotation: int = 0

    @property
    def is_keyframe(self) -> bool:
        """Whether it was coded alone; any other one also shows the damage of those that it was predicted from."""
        return bool(self.raw.key_frame)

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the whole picture, upright, in the video's own pixels."""
        width, height = self.coded_size
        return (height, width) if self._lies_on_its_side else (width, height)

    @property
    def upright_aspect(self) -> Fraction:
        """Width over height of a pixel once the picture is upright."""
        return 1 / self.sample_aspect if self._lies_on_its_side else self.sample_aspect

    @property
    def _lies_on_its_side(self) -> bool:
        return self.rotation % 180 == 90

    def to_rgb(self) -> Frame:
        """uint8 [H, W, 3], upright, in the pixels of the video: what is resized for the scorer."""
        return _upright(_to_array(self.raw), self.rotation)

    def to_gray(self) -> NDArray[np.uint8]:
        """uint8 [H, W], upright, the lines of a field twice: what text is read off."""
        gray = _luma(self.raw)
        if self.is_field:
            whole = np.empty((2 * gray.shape[0], gray.shape[1]), np.uint8)
            whole[0::2] = whole[1::2] = gray
            gray = whole
        return _upright(gray, self.rotation)

    def to_display(self, max_side: int) -> Frame:
        """uint8 [H, W, 3], upright, in square pixels, the longer side at most `max_side`: for people."""
        width, height = display_size(self.raw.width, self.raw.height * (1 + self.is_field), self.sample_aspect)
        scale = min(1.0, max_side / max(width, height))
        width, height = (max(1, round(side * scale)) for side in (width, height))
        # By way of RGB: scaling `raw` would depend on where its chroma lies, which is lost between processes.
        whole = VideoFrame.from_ndarray(_to_array(self.raw), format="rgb24")
        return _upright(_to_array(whole.reformat(width=width, height=height)), self.rotation)


def display_size(width: int, height: int, sample_aspect: Fraction) -> tuple[int, int]:
    """Width and height in square pixels; the side that is too short grows, so that nothing is thrown away."""
    if sample_aspect >= 1:
        return round(width * sample_aspect), height
    return width, round(height / sample_aspect)


class PictureTaker:
    """Makes `Picture`s of decoded frames: takes the top field of frames that are flagged as interlaced.

    A field instead of a deinterlacer: the two fields of a moving camera's frame show different places, half of 576
    lines is more than a pair looks at, and it costs nothing, since every second line is skipped in place.
    """

    def __init__(self, sample_aspect: Fraction) -> None:
        self._sample_aspect = sample_aspect
        self._field: _FieldFilter | None = None

    def take(self, frame: VideoFrame) -> Picture:
        """The picture, or its top field, sharing the decoder's memory."""
        coded_size, rotation = (frame.width, frame.height), int(frame.rotation)
        is_field = frame.interlaced_frame and frame.height >= 4
        if is_field:
            if self._field is None or not self._field.fits(frame):
                self._field = _FieldFilter(frame)
            frame = self._field.top(frame)
        if frame.width * frame.height > _MAX_HELD_PIXELS:
            shrink = (_MAX_HELD_PIXELS / (frame.width * frame.height)) ** 0.5
            # Both sides by the same factor up to a pixel, so the aspect stays.
            frame = frame.reformat(width=2 * int(frame.width * shrink / 2), height=2 * int(frame.height * shrink / 2))
        return Picture(
            raw=frame,
            sample_aspect=self._sample_aspect,
            is_field=is_field,
            coded_size=coded_size,
            rotation=rotation,
        )


class _FieldFilter:
    """libavfilter's `field`, built for one geometry; it doubles the stride and copies nothing."""

    def __init__(self, frame: VideoFrame) -> None:
        self._geometry = _geometry(frame)
        self._graph = Graph()
        source = self._graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 25)
        )
        field = self._graph.add("field", "type=top")
        self._graph.link_nodes(source, field, self._graph.add("buffersink")).configure()

    def fits(self, frame: VideoFrame) -> bool:
        return self._geometry == _geometry(frame)

    def top(self, frame: VideoFrame) -> VideoFrame:
        self._graph.vpush(frame)
        return self._graph.vpull()


def _geometry(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


def _to_array(frame: VideoFrame) -> Frame:
    return frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def _luma(frame: VideoFrame) -> NDArray[np.uint8]:
    """uint8 [H, W]; of what video is nearly always in, the decoder's own memory."""
    if frame.format.name not in _LUMA_FIRST:
        return frame.reformat(format="gray").to_ndarray().astype(np.uint8, copy=False)
    plane = frame.planes[0]
    lines = np.asarray(memoryview(plane))
    shape, strides = (frame.height, frame.width), (plane.line_size, 1)
    return np.lib.stride_tricks.as_strided(lines, shape, strides, writeable=False)


def _upright(picture: Frame, counterclockwise_degrees: int) -> Frame:
    """Undo a quarter-turn rotation that the container asks for; other angles are left alone."""
    quarters, rest = divmod(counterclockwise_degrees, 90)
    if rest or quarters % 4 == 0:
        return picture
    return np.ascontiguousarray(np.rot90(picture, quarters))


def sample_aspect_of(stream: av.VideoStream) -> Fraction:
    """Width over height of a stream's pixels, 1 if it does not say or says nonsense."""
    declared = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if declared is None or not Fraction(1, 10) <= declared <= 10:
        return Fraction(1)
    return Fraction(declared)
