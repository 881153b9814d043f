"""The on-screen display: every style writes, the counter says the distance, blurring leaves no text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.simulator.osd import STYLES, counter_text, draw_display, draw_illegible, stamp

GREY = np.full((576, 720, 3), 90, dtype=np.uint8)


def display(mode: str, style: str = "outlined"):  # type: ignore[no-untyped-def]
    return draw_display(np.random.default_rng(1), mode=mode, style=style)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_writes_two_lines_and_leaves_the_middle(style: str) -> None:
    shown = stamp(GREY, display("text", style), distance_m=12.3, elapsed_s=5)
    changed = (shown != GREY).any(axis=2)
    assert changed.any(axis=1)[:100].any()
    assert changed.any(axis=1)[-100:].any()
    assert not changed[150:-150].any()
    assert (GREY == 90).all()


def test_the_counter_changes_with_the_distance() -> None:
    a, b = (stamp(GREY, display("text"), distance_m=d, elapsed_s=5) for d in (12.3, 45.6))
    assert not np.array_equal(a, b)
    shown = replace(display("text"), decimals=2, comma=True)
    assert counter_text(shown, 12.345) == "12,35 m" or counter_text(shown, 12.345) == "12,34 m"
    assert counter_text(replace(shown, comma=False, decimals=1), 7.0) == "7.0 m"


def test_none_writes_nothing_and_blurred_writes_nothing_legible() -> None:
    assert np.array_equal(stamp(GREY, display("none"), distance_m=1, elapsed_s=0), GREY)
    noise = np.random.default_rng(0).integers(0, 255, GREY.shape).astype(np.uint8)
    blurred = stamp(noise, display("blurred"), distance_m=1, elapsed_s=0)
    other = stamp(noise, display("blurred"), distance_m=1, elapsed_s=0)
    assert np.array_equal(blurred, other)
    changed = (blurred != noise).any(axis=2)
    assert changed.any()
    assert blurred[changed].std() < 0.5 * noise[changed].std()


def test_illegible_stretches_lie_apart_within_the_video_and_take_about_their_share() -> None:
    shares = []
    for seed in range(20):
        stretches = draw_illegible(np.random.default_rng(seed), share=0.2, duration_s=600)
        marks = [0.0, *(mark for stretch in stretches for mark in stretch), 600.0]
        assert marks == sorted(marks)
        assert all(4 <= end_s - start_s <= 8.01 for start_s, end_s in stretches)
        shares.append(sum(end_s - start_s for start_s, end_s in stretches) / 600)
    assert np.mean(shares) == pytest.approx(0.2, abs=0.03)
    assert draw_illegible(np.random.default_rng(0), share=0, duration_s=600) == ()
