"""Files that a folder of inspections may hold and that want to be survived: unusual videos, broken ones, and no videos.

All of them are made with real encoders, in less than a second each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from support.video_files import (
    Painter,
    clock_face,
    repeat,
    truncate,
    write_audio_only,
    write_h264,
    write_pal,
    write_video,
)

Writer = Callable[[Path], Path]
"""Writes a file into the folder that it is given."""

ODD = {"width": 353, "height": 287}


def write_at(
    path: Path, paint: Painter, times_s: Sequence[float], *, codec: str = "libx264", container: str | None = None
) -> Path:
    """A video of pictures at these times, to the millisecond, of no particular rate."""
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=1000, options={"preset": "veryfast"})
        stream.height, stream.width = paint(0.0).shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 12
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for time_s in times_s:
            frame = av.VideoFrame.from_ndarray(paint(time_s), format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def write_hours(path: Path, hours: int) -> Path:
    """A picture a second, 32 pixels wide, with a keyframe every 10 s, for so many hours."""
    turn = path.with_name(f"turn-{path.name}")
    write_video(turn, clock_face(width=32, height=32), seconds=60, codec="libx264", fps=1, gop=10)
    return repeat(turn, path, times=60 * hours)


def write_standing_clock(path: Path, n_pictures: int) -> Path:
    """A keyframe and small pictures after it, 25 a second, all of them stamped with one time."""
    with av.open(str(path), "w", format="matroska") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.gop_size = n_pictures
        paint = clock_face(width=32, height=32)
        for n in range(n_pictures):
            for packet in stream.encode(av.VideoFrame.from_ndarray(paint(n / 25), format="rgb24")):
                packet.pts = packet.dts = 1
                output.mux(packet)
    return path


def write_two_sizes(path: Path) -> Path:
    """A recording that goes on with larger pictures, in another pixel format."""
    parts = [
        write_video(
            path.with_name(f"{pixels}.ts"),
            clock_face(width=width, height=width),
            seconds=2,
            codec="libx264",
            pixels=pixels,
        )
        for width, pixels in ((96, "yuv420p"), (160, "yuv444p"))
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def _video(
    name: str, codec: str = "libx264", *, paint: Painter | None = None, seconds: float = 2, **rest: object
) -> Writer:
    return lambda folder: write_video(
        folder / name,
        paint or clock_face(),
        seconds=seconds,
        codec=codec,
        **rest,  # type: ignore[arg-type]  # as `write_video` has them
    )


UNUSUAL: dict[str, Writer] = {
    "0.2 s": lambda folder: write_h264(folder / "blink.mp4", clock_face(), seconds=0.2),
    "4K": _video("large.mp4", paint=clock_face(width=3840, height=2160), seconds=0.2, options={"preset": "ultrafast"}),
    "odd sides, H.264": _video("odd.mp4", paint=clock_face(**ODD), pixels="yuv444p"),
    "odd sides, MPEG-2": _video("odd.mpg", "mpeg2video", paint=clock_face(**ODD)),
    "odd sides, Motion JPEG": _video(
        "odd.avi", "mjpeg", paint=clock_face(**ODD), pixels="yuvj420p", options={"strict": "unofficial"}
    ),
    "very small": _video("small.mkv", "ffv1", paint=clock_face(width=3, height=2), pixels="yuv444p"),
    "turned by 90": _video("turned90.mp4", rotation=90),
    "turned by 180": _video("turned180.mp4", rotation=180),
    "turned by 270": _video("turned270.mp4", rotation=270),
    "10 bit, H.264": _video("deep.mp4", pixels="yuv420p10le"),
    "10 bit, ProRes": _video("deep.mov", "prores_ks", pixels="yuv422p10le"),
    "10 bit, full HD": _video(
        "deep-and-large.mp4",
        paint=clock_face(width=1920, height=1080),
        seconds=0.2,
        pixels="yuv420p10le",
        options={"preset": "ultrafast"},
    ),
    "12 bit, FFV1": _video("deep.mkv", "ffv1", pixels="yuv444p12le"),
    "RGB, upside down": _video("raw.avi", "rawvideo", pixels="bgr24"),
    "grey": _video("grey.mkv", "ffv1", pixels="gray"),
    "wide pixels": _video("wide.mpg", "mpeg2video", sample_aspect=Fraction(64, 45)),
    "interlaced": lambda folder: write_pal(folder / "classic.mpg", clock_face(), seconds=2, start_s=37),
    "MPEG-1": _video("old.mpeg", "mpeg1video", container="mpeg"),
    "H.264 called .mpg": _video("renamed.mpg", container="mp4"),
    "MPEG-2 called .avi": _video("renamed.avi", "mpeg2video", container="vob"),
    "Matroska called .wmv": _video("renamed.wmv", container="matroska"),
    "no rate of its own": lambda folder: write_at(
        folder / "irregular.mkv", clock_face(), [0, 0.01, 0.02, 0.3, 0.301, 0.9, 1.0, 1.04, 1.7, 1.99]
    ),
    "two sizes": lambda folder: write_two_sizes(folder / "sizes.ts"),
}
"""Videos that show a `clock_face` and are to be read like any other."""


def _bytes(name: str, content: bytes) -> Writer:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _png(folder: Path) -> Path:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "picture.mpg", format="png")
    return folder / "picture.mpg"


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.mpg")
    return folder / "pipe.mpg"


def _without_index(folder: Path) -> Path:
    source = write_video(folder / "whole.bin", clock_face(), seconds=2, codec="libx264", container="mp4")
    return truncate(source, folder / "cut.mp4", share=0.5)


def _sound(folder: Path) -> Path:
    write_audio_only(folder / "sound.mpg")
    return folder / "sound.mpg"


NO_VIDEOS: dict[str, tuple[Writer, str]] = {
    "empty": (_bytes("empty.mpg", b""), "is empty: 0 bytes"),
    "text": (_bytes("text.mpg", b"no video at all " * 50), "is a text file"),
    "a playlist": (_bytes("list.mpg", b"#EXTM3U\n#EXTINF:4,\n/etc/passwd\n"), "is a text file"),
    "a picture": (_png, "is not a video"),
    "a program": (_bytes("program.mpg", Path(sys.executable).read_bytes()[: 2**20]), "is not a video"),
    "noise": (_bytes("noise.mpg", np.random.default_rng(0).bytes(2**18)), ""),
    "sound alone": (_sound, "has no pictures, only audio"),
    "MP4 cut off": (_without_index, "is an MP4 or MOV file without its index"),
    "a pipe": (_fifo, "is no file"),
}
"""What is no video, and what is to be said of it."""
