"""Frames with the scores that are right for them, and the service that must give those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from reliability import scale
from support.images import encode
from support.live_service import ROOT, LiveService, live_processes
from support.tiny_pair import random_frames, write_tiny_pair

from serving.frames import decode_bytes
from serving.pairs.pair import find_pair
from serving.scorer import Scorer

TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class KnownFrame:
    """An encoded frame, and its score by the bare scorer."""

    data: bytes
    score: float

    def is_scored_by(self, score: float) -> bool:
        return abs(score - self.score) < TOLERANCE


def models_for(folder: Path) -> Path:
    """The pairs to serve: the tiny one, written to `folder`, or the shipped ones, as `scale` says."""
    if scale.SHIPPED:
        return ROOT / "models"
    write_tiny_pair(folder)
    return folder


def known_frames(models: Path) -> list[KnownFrame]:
    """Frames whose scores differ, so that one answer cannot pass for another's."""
    scorer = Scorer(find_pair(models), threads=1)
    if scale.SHIPPED:
        encoded = [path.read_bytes() for path in sorted((ROOT / "serving/samples/frames").glob("*.jpg"))]
    else:
        encoded = [encode(frame) for frame in random_frames(12, 32, seed=21)]
    frames = np.stack([decode_bytes(data, scorer.pair.manifest.image_size) for data in encoded])
    scores = scorer.score(frames).score.tolist()
    return [KnownFrame(data=data, score=score) for data, score in zip(encoded, scores, strict=True)]


@contextmanager
def served(
    models: Path, *, workers: int = 2, port: int | None = None, settings: Mapping[str, object] | None = None
) -> Iterator[LiveService]:
    """The service with `models`, one session thread a worker so that processes do not fight for cores."""
    with live_processes(
        models=models, workers=workers, port=port, settings={"threads": 1} | dict(settings or {})
    ) as live:
        yield live
