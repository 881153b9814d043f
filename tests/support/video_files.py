"""Real video files, made with real encoders, whose content is known picture by picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from numpy.typing import NDArray

Painter = Callable[[float], NDArray[np.uint8]]


def red_between(start_s: float, end_s: float, *, width: int = 160, height: int = 128) -> Painter:
    """A grey picture with a moving bar that is red from `start_s` to `end_s`: what the tiny pair calls a defect."""

    def paint(time_s: float) -> NDArray[np.uint8]:
        picture = np.full((height, width, 3), 110, dtype=np.uint8)
        picture[:, int(time_s * 10) % width] = 140
        if start_s <= time_s < end_s:
            picture[..., 0], picture[..., 1:] = 230, 20
        return picture

    return paint


CLOCK_TURN_S = 4.0


def clock_face(*, width: int = 160, height: int = 128) -> Painter:
    """A picture whose grey rises from 16 to 235 in `CLOCK_TURN_S` seconds, and again: its time can be read off it."""

    def paint(time_s: float) -> NDArray[np.uint8]:
        return np.full((height, width, 3), round(16 + 219 * (time_s / CLOCK_TURN_S % 1)), dtype=np.uint8)

    return paint


def clock_error_s(frame: NDArray[np.uint8], time_s: float) -> float:
    """How far the time that a `clock_face` shows is from `time_s`, the short way round."""
    shown_s = float(frame.mean() - 16) / 219 * CLOCK_TURN_S
    late_s = (shown_s - time_s) % CLOCK_TURN_S
    return min(late_s, CLOCK_TURN_S - late_s)


def noise(seed: int, *, width: int = 160, height: int = 128) -> Painter:
    """Coarse moving noise, which costs bits, so that damage in the middle of a file hits pictures."""
    field = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8 + 64, 3), dtype=np.uint8)

    def paint(time_s: float) -> NDArray[np.uint8]:
        shift = int(time_s * 10) % 64
        return field[:, shift : shift + width // 8].repeat(8, 0).repeat(8, 1)

    return paint


def write_video(
    path: Path,
    paint: Painter,
    *,
    seconds: float,
    codec: str,
    fps: int = 25,
    gop: int = 12,
    interlaced: bool = False,
    start_s: float = 0.0,
    sample_aspect: Fraction | None = None,
    rotation: int = 0,
    container: str | None = None,
    pixels: str = "yuv420p",
    options: Mapping[str, str] | None = None,
) -> Path:
    """Encode `seconds` of `paint` to `path`; `start_s` shifts all presentation times, as program streams do.

    `.mpg` becomes an MPEG-2 program stream, other endings what FFmpeg takes them for, unless `container` says.
    """
    container = container or ("vob" if path.suffix == ".mpg" else None)
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps, options=dict(options or {}))
        first = paint(0.0)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pixels
        stream.gop_size = gop
        stream.codec_context.time_base = Fraction(1, fps)
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        if interlaced:
            stream.codec_context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(round(seconds * fps)):
            frame = av.VideoFrame.from_ndarray(paint(i / fps), format="rgb24")
            frame.pts = i + round(start_s * fps)
            frame.time_base = Fraction(1, fps)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def write_pal(path: Path, paint: Painter, *, seconds: float, start_s: float = 0.0) -> Path:
    """The classic: MPEG-2 program stream, interlaced, groups of 12 pictures with two B between references."""
    options = {"bf": "2", "sc_threshold": "1000000000"}  # no keyframes where the picture jumps
    return write_video(
        path, paint, seconds=seconds, codec="mpeg2video", interlaced=True, start_s=start_s, options=options
    )


def write_h264(path: Path, paint: Painter, *, seconds: float, gop: int = 250, start_s: float = 0.0) -> Path:
    """What newer rigs write: H.264 with B-pictures and keyframes far apart."""
    options = {"preset": "veryfast", "sc_threshold": "0"}
    return write_video(path, paint, seconds=seconds, codec="libx264", gop=gop, start_s=start_s, options=options)


def repeat(source: Path, target: Path, *, times: int) -> Path:
    """An MP4's pictures over and over, without the cost of encoding them again; times go on from turn to turn."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.video[0]
        out = writer.add_stream_from_template(stream)
        packets = [packet for packet in reader.demux(stream) if packet.size]
        first = min(packet.dts for packet in packets)
        length = round(len(packets) / (stream.average_rate * packets[0].time_base))
        times_of = [(packet.pts - first, packet.dts - first) for packet in packets]
        for turn in range(times):
            for packet, (pts, dts) in zip(packets, times_of, strict=True):
                # Muxing rescales the packet's stamps in place, so they are set anew each time.
                packet.stream, packet.time_base = out, stream.time_base
                packet.pts, packet.dts = pts + turn * length, dts + turn * length
                writer.mux(packet)
    return target


def write_audio_only(path: Path) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w", format="vob" if path.suffix == ".mpg" else None) as container:
        stream = container.add_stream("mp2", rate=44100)
        stream.layout = "mono"
        for i in range(20):
            samples = np.zeros((1, 1152), dtype=np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 44100, i * 1152
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def damage(source: Path, target: Path, *, start: float, end: float) -> Path:
    """A copy whose bytes from `start` to `end`, as shares of its length, are noise."""
    data = bytearray(source.read_bytes())
    first, last = int(start * len(data)), int(end * len(data))
    data[first:last] = np.random.default_rng(0).bytes(last - first)
    target.write_bytes(data)
    return target


def truncate(source: Path, target: Path, *, share: float) -> Path:
    """A copy that ends after a share of the bytes."""
    data = source.read_bytes()
    target.write_bytes(data[: int(share * len(data))])
    return target
