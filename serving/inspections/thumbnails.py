"""Pictures of findings' peaks and where their evidence lies, made when nobody knows yet what will be a finding."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.inspections.evidence_box import EvidenceBox, clock_position, evidence_box
from serving.inspections.findings import MISSING_STEPS
from serving.inspections.overlay import draw_evidence
from serving.inspections.pictures import Picture
from serving.inspections.video import Sample
from serving.pairs.manifest import Calibration

MAX_SIDE = 768  # pixels: PAL in square pixels, unscaled
_JPEG_QUALITY = 85


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where on a picture its evidence lies; `clock` is the hour, None where it points in no direction."""

    box: EvidenceBox
    clock: int | None


class PeakPictures:
    """Keeps, on disk until `jpeg_at` asks for it, the picture with the highest score of every unbroken row of samples
    with score >= `enter`, under its evidence.

    The peak of any finding that opens at `enter` is among them, since only such samples can be one: joining rows
    takes the highest of their peaks, and rows that are dropped cost only their picture. Use as a context manager.
    """

    def __init__(self, *, enter: float, step_s: float, calibration: Calibration) -> None:
        self._enter = enter
        self._hole_s = MISSING_STEPS * step_s
        self._calibration = calibration
        self._best: tuple[float, float, Picture, NDArray[np.float32]] | None = None
        self._last_s = 0.0
        self._folder = tempfile.TemporaryDirectory(prefix="pipeprobe-peaks-")
        self._files: dict[float, tuple[Path, Path]] = {}
        self._places: dict[float, Place] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def see(self, sample: Sample, score: float, evidence: NDArray[np.float32]) -> None:
        """Take the next sample, in order of time, with its score and evidence [h, w]."""
        if score < self._enter or sample.pts_s - self._last_s > self._hole_s:
            self._keep_best()
        self._last_s = sample.pts_s
        if score >= self._enter and (self._best is None or score > self._best[0]):
            self._best = (score, sample.pts_s, sample.picture, evidence)

    def pass_by(self, time_s: float) -> None:
        """The next sample took over the score of the one before it: it ends no row, and is no peak."""
        self._last_s = time_s

    def jpeg_at(self, peak_s: float) -> bytes:
        """The JPEG of a finding's peak under its evidence, once all samples have been seen."""
        self._keep_best()
        return self._files[peak_s][0].read_bytes()

    def bare_jpeg_at(self, peak_s: float) -> bytes:
        """The same picture without evidence, which would hide what a reviewer has to judge."""
        self._keep_best()
        return self._files[peak_s][1].read_bytes()

    def place_at(self, peak_s: float) -> Place:
        """Where the evidence lies on a finding's peak, once all samples have been seen."""
        self._keep_best()
        return self._places[peak_s]

    def _keep_best(self) -> None:
        if self._best is None:
            return
        _, peak_s, picture, evidence = self._best
        self._best = None
        displayed = picture.to_display(MAX_SIDE)
        file = Path(self._folder.name) / f"{len(self._files)}.jpg"
        bare_file = file.with_name(bare_name(file.name))
        file.write_bytes(encode_jpeg(draw_evidence(displayed, evidence, self._calibration)))
        bare_file.write_bytes(encode_jpeg(displayed))
        self._files[peak_s] = file, bare_file
        box = evidence_box(evidence, self._calibration, picture_size=picture.upright_size)
        clock = clock_position(box, pixel_aspect=float(picture.upright_aspect))
        self._places[peak_s] = Place(box=box, clock=clock)


def bare_name(photo: str) -> str:
    """The file beside `photo`, a name like `peak_001.jpg`, that holds the picture without evidence."""
    stem, dot, ending = photo.rpartition(".")
    return f"{stem}_bare{dot}{ending}"


def encode_jpeg(picture: NDArray[np.uint8]) -> bytes:
    """A picture, uint8 [H, W, 3], as the bytes of a JPEG file."""
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
