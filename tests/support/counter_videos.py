"""Pictures with a distance counter on them, drawn here, so that what a reader should read is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

RED_S = (4.0, 7.0)


def course_m(time_s: float) -> float:
    """0.15 m/s from 1 m on, with a stop from 6 to 9 s and a second of turning back before the way goes on."""
    if time_s < 6:
        return 1 + 0.15 * time_s
    if time_s < 9:
        return 1.9
    if time_s < 10:
        return 1.9 - 0.15 * (time_s - 9)
    return 1.75 + 0.15 * (time_s - 10)


def with_counter(
    text_of: Callable[[float], str], *, at: tuple[int, int] = (24, 20), background: int = 90, ink: int = 255
) -> Callable[[float], NDArray[np.uint8]]:
    """A painter of 360 x 288 pictures that are red from 4 to 7 s, say a date, and what `text_of` gives for a time."""
    font = ImageFont.load_default(20)

    def paint(time_s: float) -> NDArray[np.uint8]:
        is_red = RED_S[0] <= time_s < RED_S[1]
        picture = Image.new("RGB", (360, 288), (200, 40, 40) if is_red else (background,) * 3)
        draw = ImageDraw.Draw(picture)
        draw.text((24, 250), "0815-4711 24.08.2009", font=font, fill=(ink,) * 3)
        draw.text(at, text_of(time_s), font=font, fill=(ink,) * 3, stroke_width=1, stroke_fill=(255 - ink,) * 3)
        return np.asarray(picture)

    return paint
