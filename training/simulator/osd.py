"""On-screen display: the text that inspection systems burn into the picture, and the boxes Sewer-ML blurs over it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

STYLES: tuple[str, ...] = ("outlined", "bar", "generator", "panel")
MODES: dict[str, float] = {"none": 0.35, "blurred": 0.35, "text": 0.30}


@dataclass(frozen=True, kw_only=True)
class Display:
    """How one inspection shows its data. `mode` is none, blurred (Sewer-ML's way with text) or text."""

    mode: str
    style: str
    corner: tuple[str, str]
    pipe: str
    date: str
    time_s: int
    decimals: int
    comma: bool


def draw_display(rng: np.random.Generator, *, mode: str | None = None, style: str | None = None) -> Display:
    """The display of an inspection; `mode` and `style` forced where given."""
    drawn = str(rng.choice(list(MODES), p=list(MODES.values())))
    drawn_style = STYLES[int(rng.integers(len(STYLES)))]
    return Display(
        mode=mode or drawn,
        style=style or drawn_style,
        corner=(("left", "right")[int(rng.integers(2))], ("top", "bottom")[int(rng.integers(2))]),
        pipe=f"{int(rng.integers(1, 9999)):04d}-{int(rng.integers(1, 9999)):04d}",
        date=f"{int(rng.integers(1, 29)):02d}.{int(rng.integers(1, 13)):02d}.{int(rng.integers(1998, 2025))}",
        time_s=int(rng.integers(7 * 3600, 17 * 3600)),
        decimals=int(rng.integers(1, 3)),
        comma=bool(rng.integers(2)),
    )


def stamp(frame: NDArray[np.uint8], display: Display, *, distance_m: float, elapsed_s: float) -> NDArray[np.uint8]:
    """`frame` (uint8 [H, W, 3]) with the display on it; the frame itself is left alone."""
    if display.mode == "none":
        return frame
    picture = Image.fromarray(frame)
    height = picture.height
    size = max(9, round(height / 22))
    counter_box = _write_counter(picture, display, distance_m, size)
    header_box = _write_header(picture, display, elapsed_s, size)
    if display.mode == "blurred":
        picture = Image.fromarray(frame)
        for box in (counter_box, header_box):
            grown = _grow(box, size // 3, picture.size)
            picture.paste(picture.crop(grown).filter(ImageFilter.GaussianBlur(size)), grown)
    return np.asarray(picture)


def draw_illegible(rng: np.random.Generator, *, share: float, duration_s: float) -> tuple[tuple[float, float], ...]:
    """When a display cannot be read: stretches (start_s, end_s) of 4 to 8 s, apart, about `share` of the whole."""
    stretches: list[tuple[float, float]] = []
    reached_s = 0.0
    while share > 0:
        length_s = float(rng.uniform(4, 8))
        start_s = reached_s + float(rng.uniform(0.5, 1.5)) * length_s * (1 - share) / share
        reached_s = start_s + length_s
        if reached_s > duration_s:
            break
        stretches.append((round(start_s, 2), round(reached_s, 2)))
    return tuple(stretches)


def counter_text(display: Display, distance_m: float) -> str:
    """The distance as the display writes it, for example `12,34 m`."""
    text = f"{distance_m:.{display.decimals}f}"
    return f"{text.replace('.', ',') if display.comma else text} m"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _write_counter(picture: Image.Image, display: Display, distance_m: float, size: int) -> tuple[int, int, int, int]:
    text = counter_text(display, distance_m)
    width, height = picture.size
    margin = size
    length = round(_font(size).getlength(text))
    x = margin if display.corner[0] == "left" else width - margin - length
    y = margin if display.corner[1] == "top" else height - margin - round(1.3 * size)
    return _write(picture, (x, y), text, display.style, size)


def _write_header(picture: Image.Image, display: Display, elapsed_s: float, size: int) -> tuple[int, int, int, int]:
    clock = display.time_s + int(elapsed_s)
    now = f"{clock // 3600 % 24:02d}:{clock // 60 % 60:02d}:{clock % 60:02d}"
    y = size if display.corner[1] == "bottom" else picture.height - round(2.3 * size)
    text = f"{display.pipe}  {display.date} {now}"
    small = max(8, round(0.85 * size))
    while small > 8 and _font(small).getlength(text) > picture.width - 2 * size:
        small -= 1
    return _write(picture, (size, y), text, display.style, small)


def _write(picture: Image.Image, at: tuple[int, int], text: str, style: str, size: int) -> tuple[int, int, int, int]:
    draw = ImageDraw.Draw(picture, "RGBA")
    left, top, right, bottom = (round(v) for v in draw.textbbox(at, text, font=_font(size)))
    box = (left - 2, top - 2, right + 2, bottom + 2)
    match style:
        case "outlined":
            draw.text(at, text, font=_font(size), fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
        case "bar":
            draw.rectangle(box, fill=(0, 0, 0))
            draw.text(at, text, font=_font(size), fill=(255, 225, 60))
        case "generator":
            draw.text((at[0] + 1, at[1] + 1), text, font=_font(size), fill=(0, 0, 0))
            draw.text(at, text, font=_font(size), fill=(110, 255, 120))
        case _:
            draw.rectangle(box, fill=(20, 30, 70, 150))
            draw.text(at, text, font=_font(size), fill=(235, 240, 255))
    return box


def _grow(box: tuple[int, int, int, int], by: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    return max(0, box[0] - by), max(0, box[1] - by), min(size[0], box[2] + by), min(size[1], box[3] + by)
