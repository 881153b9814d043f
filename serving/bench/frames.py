"""Frames to measure with: the shipped samples at the size of an inspection's video, as JPEGs of some 120 kB."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from serving.errors import ConfigError
from serving.frames import decode_full

SAMPLES = Path(__file__).resolve().parents[1] / "samples" / "frames"
SIZE = (720, 576)
"""Width and height: what most inspection cameras record."""

TARGET_BYTES = 120_000
_QUALITIES = range(96, 40, -2)


def bench_frames(folder: Path = SAMPLES) -> list[bytes]:
    """Every picture of `folder` as a JPEG of `SIZE` and at most `TARGET_BYTES`; the same bytes each time.

    The samples are smaller and cleaner than a camera's pictures, so fine noise is added: without it a JPEG of this
    size has half the bytes and takes less time to decode. Raises `ConfigError` if there are no pictures.
    """
    paths = sorted(folder.glob("*.jpg"))
    if not paths:
        raise ConfigError(f"there are no sample frames in {folder}; reinstall pipeprobe, or name a folder of JPEGs")
    return [_camera_frame(path) for path in paths]


def _camera_frame(path: Path) -> bytes:
    picture = Image.fromarray(decode_full(path.read_bytes())).resize(SIZE, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 6, (SIZE[1], SIZE[0], 3))
    noisy = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    for quality in _QUALITIES:
        data = io.BytesIO()
        noisy.save(data, "JPEG", quality=quality)
        if data.tell() <= TARGET_BYTES:
            break
    return data.getvalue()
