"""Names of Sewer-ML's format (Haurum and Moeslund, CVPR 2021): class codes, columns, files and folders."""

from __future__ import annotations

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

# In the column order of the annotation files.
CLASS_CODES: tuple[str, ...] = tuple(CLASS_NAMES)

# VA is the water-level remark, ND "no defect"; neither makes a frame a defect.
CSV_COLUMNS: tuple[str, ...] = ("Filename", "WaterLevel", "VA", *CLASS_CODES, "ND", "Defect")

CSV_NAMES: dict[str, str] = {
    "train": "SewerML_Train.csv",
    "val": "SewerML_Val.csv",
    "test": "SewerML_Test.csv",
}
# The published image folders and zips say "valid" where the annotation file says "Val".
IMAGE_FOLDERS: dict[str, str] = {"train": "train", "val": "valid", "test": "test"}
