"""Which classes occur together, and how high the water stands: the real frequencies of Sewer-ML.

The counts are facts read off every 16th annotation of Sewer-ML's train and val files (73,135 rows; Haurum and Moeslund,
CVPR 2021), counting the rows that carry exactly that set of classes. All sets that occur more than 62 times are
listed, and the rarer ones at the end of the table.
"""

from __future__ import annotations

import numpy as np

ANNOTATIONS = 73_135
WITHOUT_DEFECT = 34_751

SET_COUNTS: dict[str, int] = {
    "OB FS": 3899,
    "FS": 3897,
    "OK": 3713,
    "FS OK": 2857,
    "OB FS OK": 1382,
    "FS AF": 1239,
    "OB": 964,
    "GR": 939,
    "OB FS BE": 733,
    "OB FS AF": 697,
    "AF": 694,
    "FS GR": 626,
    "OB FS GR": 614,
    "PF OK": 600,
    "FS AF OK": 583,
    "DE": 532,
    "FS BE": 522,
    "BE": 406,
    "AF OK": 359,
    "RB OB FS": 355,
    "RB FS OK": 353,
    "RB FS": 347,
    "OB BE": 336,
    "OB OK": 296,
    "OS": 294,
    "FS RO": 287,
    "PF": 275,
    "OP": 256,
    "OB FS AF OK": 255,
    "OB FS RO": 245,
    "OB FS IN BE": 240,
    "PB": 216,
    "RB": 205,
    "PH": 204,
    "OB FS PH": 193,
    "OB AF": 190,
    "OB GR": 172,
    "FS PH": 168,
    "RB OB FS OK": 161,
    "OB IN BE": 156,
    "OB FS IN": 152,
    "GR OK": 141,
    "PF DE OK": 130,
    "FS GR OK": 129,
    "PF DE": 121,
    "RB FS AF": 120,
    "OB FS BE GR": 117,
    "FS IN BE": 113,
    "DE OK": 111,
    "RB OB FS BE": 110,
    "FS RO OK": 109,
    "IN BE": 108,
    "RB OB FS PH": 106,
    "RO": 106,
    "RB OB": 104,
    "FS AF BE": 91,
    "RB OK": 88,
    "FS BE OK": 88,
    "OB RO": 88,
    "OB FS AF BE": 85,
    "FS AF GR": 82,
    "OB FS BE OK": 82,
    "OB FS AF GR": 80,
    "OB FS GR OK": 80,
    "OB PH": 78,
    "FS BE GR": 73,
    "RB FS AF OK": 71,
    "OB FS IS": 70,
    "RB OB FS AF": 69,
    "FS IS": 68,
    "OB IN": 65,
    "RB OB FS GR": 64,
    "OB FS RO OK": 62,
    "FS RO AF": 62,
    # FO and OP are in no frequent set; their most frequent ones are kept, so that all 17 classes occur.
    "FO": 43,
    "FS FO": 40,
    "RB FS FO": 17,
    "DE FO OP": 26,
}


def draw_class_set(rng: np.random.Generator) -> tuple[str, ...]:
    """The classes of one place with defects, drawn by how often that set occurs in Sewer-ML."""
    counts = np.array(list(SET_COUNTS.values()), dtype=np.float64)
    chosen = list(SET_COUNTS)[int(rng.choice(len(counts), p=counts / counts.sum()))]
    return tuple(chosen.split())


# Sewer-ML gives the water level as a class, per cent of the diameter; a level counts as the nearest of these.
WATER_LEVELS = (0, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


def water_level_class(share_of_diameter: float) -> int:
    """The class of a water level given as a share of the diameter."""
    return min(WATER_LEVELS, key=lambda level: abs(level - 100 * share_of_diameter))
