"""Evidence made visible: a heat map over the frame, for people.

Shape legend: H W frame height and width, h w evidence map.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.pairs.manifest import Calibration

# Share of the heat's colour where heat is 1; the pipe must stay visible beneath.
_OPACITY = 0.6
_COOL = np.array([255.0, 225.0, 0.0], np.float32)  # yellow, where heat begins
_HOT = np.array([225.0, 0.0, 0.0], np.float32)  # red, where heat is 1


def heat_map(evidence: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    """Evidence [h, w] as heat in [0, 1]: the score of a frame that looked everywhere as it does here.

    The scale is the same for all frames of a pair, so that a clean frame stays clean instead of having its
    own noise stretched to full colour.
    """
    calibrated = calibration.slope * evidence.astype(np.float64) + calibration.intercept
    return (0.5 * (1 + np.tanh(calibrated / 2))).astype(np.float32)


def draw_evidence(
    frame: NDArray[np.uint8], evidence: NDArray[np.float32], calibration: Calibration
) -> NDArray[np.uint8]:
    """The frame, uint8 [H, W, 3], under its evidence [h, w], upsampled bilinearly; uint8 [H, W, 3].

    No heat leaves a pixel as it is; more heat turns it from yellow to red. Raises `ValueError` on other
    shapes.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or evidence.ndim != 2:
        raise ValueError(f"expected a frame [H, W, 3] and evidence [h, w], got {frame.shape} and {evidence.shape}")
    height, width = frame.shape[:2]
    heat_image = Image.fromarray(heat_map(evidence, calibration))
    heat = np.asarray(heat_image.resize((width, height), Image.Resampling.BILINEAR))[..., None]
    opacity = _OPACITY * heat
    blended = (1 - opacity) * frame + opacity * (_COOL + heat * (_HOT - _COOL))
    overlay: NDArray[np.uint8] = np.clip(np.rint(blended), 0, 255).astype(np.uint8)
    return overlay


def encode_png(frame: NDArray[np.uint8]) -> bytes:
    """A frame, uint8 [H, W, 3], as the bytes of a PNG file."""
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()
