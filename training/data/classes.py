"""The Sewer-ML classes: codes, column order and economic weights (Haurum and Moeslund, CVPR 2021)."""

from __future__ import annotations

# The class importance weight (CIW) of each defect class, in the column order of the annotation files.
CIW: dict[str, float] = {
    "RB": 1.0,
    "OB": 0.5518,
    "PF": 0.2896,
    "DE": 0.1622,
    "FS": 0.6419,
    "IS": 0.1847,
    "RO": 0.3559,
    "IN": 0.3131,
    "AF": 0.0811,
    "BE": 0.2275,
    "FO": 0.2477,
    "GR": 0.0901,
    "PH": 0.4167,
    "PB": 0.4167,
    "OS": 0.9009,
    "OP": 0.3829,
    "OK": 0.4396,
}
CLASS_CODES: tuple[str, ...] = tuple(CIW)

CLASS_NAMES: dict[str, str] = {
    "RB": "cracks, breaks and collapses",
    "OB": "surface damage",
    "PF": "production error",
    "DE": "deformation",
    "FS": "displaced joint",
    "IS": "intruding sealing material",
    "RO": "roots",
    "IN": "infiltration",
    "AF": "settled deposits",
    "BE": "attached deposits",
    "FO": "obstacle",
    "GR": "branch pipe",
    "PH": "chiselled connection",
    "PB": "drilled connection",
    "OS": "lateral reinstatement cuts",
    "OP": "connection with transition profile",
    "OK": "connection with construction changes",
}

# VA is the water-level remark, ND "no defect"; neither makes a frame a defect.
CSV_COLUMNS: tuple[str, ...] = ("Filename", "WaterLevel", "VA", *CLASS_CODES, "ND", "Defect")

CSV_NAMES: dict[str, str] = {
    "train": "SewerML_Train.csv",
    "val": "SewerML_Val.csv",
    "test": "SewerML_Test.csv",
}
# The published image folders and zips say "valid" where the annotation file says "Val".
IMAGE_FOLDERS: dict[str, str] = {"train": "train", "val": "valid", "test": "test"}
