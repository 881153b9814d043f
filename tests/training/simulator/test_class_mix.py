"""The class mix: drawn as counted, and counted as it stands in the real annotations."""

from __future__ import annotations

from collections import Counter

import numpy as np
from support.shared_data import shared_data

from training.data.classes import CLASS_CODES
from training.data.sewer_ml import read_annotations
from training.simulator.class_mix import (
    ANNOTATIONS,
    SET_COUNTS,
    WATER_LEVELS,
    WITHOUT_DEFECT,
    draw_class_set,
    water_level_class,
)


def test_sets_are_drawn_as_often_as_counted() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(" ".join(draw_class_set(rng)) for _ in range(20_000))
    total = sum(SET_COUNTS.values())
    for name, count in list(SET_COUNTS.items())[:12]:
        expected = 20_000 * count / total
        assert abs(drawn[name] - expected) < 5 * expected**0.5
    assert set(drawn) <= set(SET_COUNTS)


def test_every_class_occurs() -> None:
    assert {code for name in SET_COUNTS for code in name.split()} == set(CLASS_CODES)


def test_water_levels_go_to_the_nearest_class() -> None:
    assert [water_level_class(x) for x in (0.0, 0.012, 0.09, 0.24, 0.96)] == [0, 2, 10, 20, 100]
    assert tuple(sorted(WATER_LEVELS)) == WATER_LEVELS


def test_the_counts_are_those_of_the_real_annotations() -> None:
    annotations = shared_data("sewer_ml_annotations")
    counts: Counter[str] = Counter()
    for name in ("SewerML_Train.csv", "SewerML_Val.csv"):
        for row in read_annotations(annotations / name).classes:
            counts[" ".join(code for code, on in zip(CLASS_CODES, row, strict=True) if on)] += 1
    assert sum(counts.values()) == ANNOTATIONS
    assert counts[""] == WITHOUT_DEFECT
    assert {name: counts[name] for name in SET_COUNTS} == SET_COUNTS
    frequent = {name for name, count in counts.items() if count > 62 and name}
    assert frequent <= set(SET_COUNTS)
