"""Text in pictures, read by RapidOCR: detection with recognition for whole pictures, recognition alone for patches.

Its weights lie in its own wheel, so nothing is fetched. It is not part of every installation (extra `osd`).

Shape legend: H W height and width of a picture.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError

# Longer side to which a picture is shrunk for detection: on a CPU half the time of PAL's own size, and displays are
# made to be read.
_DETECTION_SIDE = 416
# Least width over height that a patch is padded to: a counter is short, and time rises with width.
_NARROWEST = (3, 48, 64)
_REMEDY = "reading distances off the picture needs RapidOCR: pip install 'pipeprobe[osd]', or take --distance none"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of text and its upright box, pixels: left and top inside, right and bottom outside."""

    text: str
    left: int
    top: int
    right: int
    bottom: int

    @property
    def height(self) -> int:
        return self.bottom - self.top


def is_installed() -> bool:
    """Whether text can be read here."""
    return importlib.util.find_spec("rapidocr") is not None


def reader_name() -> str:
    """What reads, with its version: other releases read other texts. Raises `ConfigError` if it is not installed."""
    try:
        return f"rapidocr {version('rapidocr')}"
    except PackageNotFoundError as error:
        raise ConfigError(_REMEDY) from error


@cache
def text_reader() -> TextReader:
    """The one reader of this process; loading takes a second. Raises `ConfigError` if it is not installed."""
    return TextReader()


class TextReader:
    """Reads on one thread, so that scoring keeps the others."""

    def __init__(self) -> None:
        try:
            from rapidocr import RapidOCR  # loads OpenCV, which nothing else needs
        except ImportError as error:
            raise ConfigError(_REMEDY) from error
        self._engine: Any = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.use_cls": False,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Det.limit_side_len": _DETECTION_SIDE,
                "Det.limit_type": "max",
                "Rec.rec_img_shape": list(_NARROWEST),
                # Lines of a batch are all padded to the widest, and a counter stands beside long lines of other text.
                "Rec.rec_batch_num": 1,
            }
        )

    def find(self, picture: NDArray[np.uint8]) -> list[Line]:
        """All lines of text in a picture, uint8 [H, W]."""
        found = self._engine(_three_channels(picture), use_det=True, use_cls=False, use_rec=True)
        if found.boxes is None or found.txts is None:
            return []
        return [_line(text, np.asarray(corners)) for text, corners in zip(found.txts, found.boxes, strict=True)]

    def read(self, patch: NDArray[np.uint8]) -> tuple[str, float]:
        """The one line of text in a patch, uint8 [H, W], and the confidence in it, 0 to 1; empty if there is none."""
        found = self._engine(_three_channels(patch), use_det=False, use_cls=False, use_rec=True)
        if not found.txts:
            return "", 0.0
        return str(found.txts[0]), float(found.scores[0])


def _line(text: str, corners: NDArray[np.floating]) -> Line:
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return Line(text=str(text), left=int(left), top=int(top), right=int(np.ceil(right)), bottom=int(np.ceil(bottom)))


def _three_channels(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(picture[:, :, None], 3, axis=2)
