"""The Sewer-ML classes: names and column order, which serving knows as well, and economic weights."""

from __future__ import annotations

from serving.inspections.sewer_ml_format import CLASS_CODES, CLASS_NAMES, CSV_COLUMNS, CSV_NAMES, IMAGE_FOLDERS

__all__ = ["CIW", "CLASS_CODES", "CLASS_NAMES", "CSV_COLUMNS", "CSV_NAMES", "IMAGE_FOLDERS"]

# The class importance weight (CIW) of each defect class (Haurum and Moeslund, CVPR 2021).
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
