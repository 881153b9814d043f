"""Boxes and clock positions against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.inspections.evidence_box import EvidenceBox, clock_position, evidence_box
from serving.pairs.manifest import Calibration

PLAIN = Calibration(slope=1, intercept=0, n=1, data="none")
COLD, HOT = 0.0, 40.0


def cells(rows: int, columns: int, **hot: float) -> NDArray[np.float32]:
    """Cold evidence [rows, columns] but for cells named like `r0c3`."""
    evidence = np.full((rows, columns), COLD, np.float32)
    for name, value in hot.items():
        row, column = name[1:].split("c")
        evidence[int(row), int(column)] = value
    return evidence


def corners(evidence: NDArray[np.float32], size: tuple[int, int]) -> tuple[int, int, int, int]:
    box = evidence_box(evidence, PLAIN, picture_size=size)
    assert (box.picture_width, box.picture_height) == size
    return box.x, box.y, box.width, box.height


def box_at(x: float, y: float, *, size: tuple[int, int]) -> EvidenceBox:
    """A small box with its centre at (x, y), to the pixel."""
    return EvidenceBox(x=round(x) - 1, y=round(y) - 1, width=2, height=2, picture_width=size[0], picture_height=size[1])


def test_a_cell_is_its_share_of_the_picture() -> None:
    assert corners(cells(4, 4, r0c3=HOT), (400, 200)) == (300, 0, 100, 50)
    assert corners(cells(2, 8, r1c0=HOT), (720, 576)) == (0, 288, 90, 288)


def test_a_box_is_widened_to_whole_pixels_and_stays_within_the_picture() -> None:
    # 720 / 7 * 3 = 308.6 and * 4 = 411.4; 576 / 7 * 6 = 493.7 and * 7 = 576.
    assert corners(cells(7, 7, r6c3=HOT), (720, 576)) == (308, 493, 104, 83)
    assert corners(cells(7, 7, r6c6=HOT), (3, 2)) == (2, 1, 1, 1)


def test_cells_that_hang_together_and_stand_out_belong_to_it() -> None:
    # The mean is (40 + 24 + 23 + 33) / 16 = 7.5, half the way up from it 23.75: 24 is enough and 23 is not.
    # A corner joins; another strong place is another one.
    evidence = cells(4, 4, r0c0=HOT, r1c1=24, r2c1=23, r3c3=33)
    assert corners(evidence, (400, 400)) == (0, 0, 200, 200)


def test_the_strongest_place_counts_where_heat_saturates() -> None:
    # As heat, 15 and 30 logits are both 1.000000.
    evidence = np.full((3, 3), 15, np.float32)
    evidence[2, 2] = 30
    assert corners(evidence, (30, 30)) == (20, 20, 10, 10)


def test_noise_is_no_place() -> None:
    evidence = np.full((3, 3), 15, np.float32)
    evidence[2, 2] = 15.99
    assert corners(evidence, (30, 30)) == (0, 0, 30, 30)
    evidence[2, 2] = 16.01
    assert corners(evidence, (30, 30)) == (20, 20, 10, 10)


def test_evidence_everywhere_is_the_whole_picture_and_no_direction() -> None:
    box = evidence_box(np.full((5, 3), HOT, np.float32), PLAIN, picture_size=(720, 576))
    assert (box.x, box.y, box.width, box.height) == (0, 0, 720, 576)
    assert clock_position(box, pixel_aspect=16 / 15) is None


@pytest.mark.parametrize("hour", range(1, 13))
def test_hours_go_round_from_the_top_clockwise(hour: int) -> None:
    for off in (-14, 0, 14):  # degrees; from 15 on it is another hour
        angle = math.radians(30 * hour + off)
        box = box_at(600 + 500 * math.sin(angle), 600 - 500 * math.cos(angle), size=(1200, 1200))
        assert clock_position(box, pixel_aspect=1) == hour


def test_hours_are_those_of_the_pipe_not_of_its_pixels() -> None:
    # 180 pixels right and 144 up: 51 degrees in square pixels, 1.7 h; 61 in pixels 64:45, 2.02 h;
    # 22 degrees in pixels a third as wide as high, 0.75 h.
    box = box_at(360 + 180, 288 - 144, size=(720, 576))
    assert [clock_position(box, pixel_aspect=aspect) for aspect in (1, 64 / 45, 1 / 3)] == [2, 2, 1]
    # 300 right and 140 down in PAL's 4:3: atan(320 / 140) = 66 degrees from below, 114 from the top: 3.8 h.
    assert clock_position(box_at(360 + 300, 288 + 140, size=(720, 576)), pixel_aspect=16 / 15) == 4


def test_a_box_near_the_centre_points_nowhere() -> None:
    # A tenth of half the height is 28.8 pixels.
    assert clock_position(box_at(360, 288 - 28, size=(720, 576)), pixel_aspect=1) is None
    assert clock_position(box_at(360, 288 - 30, size=(720, 576)), pixel_aspect=1) == 12


def test_the_calibration_decides_what_is_noise() -> None:
    evidence = np.array([[2.0, 1.1]], np.float32)
    steep = Calibration(slope=10, intercept=-15, n=1, data="none")  # logits 5 and -4
    assert evidence_box(evidence, steep, picture_size=(10, 10)).width == 5
    assert evidence_box(evidence, PLAIN, picture_size=(10, 10)).width == 10


@pytest.mark.parametrize("evidence", [np.zeros(4, np.float32), np.zeros((0, 3), np.float32)])
def test_other_shapes_are_refused(evidence: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="evidence"):
        evidence_box(evidence, PLAIN, picture_size=(10, 10))
    with pytest.raises(ValueError, match="picture"):
        evidence_box(cells(2, 2), PLAIN, picture_size=(0, 10))
