"""CSV with a header line, UTF-8, one line an observation or a frame."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.durable import write_text_atomic
from serving.formats.observation import COLUMNS, Observation, as_row


def write_observations(path: Path, observations: Iterable[Observation]) -> None:
    """Write observations; an unknown value is an empty field."""
    write_rows(path, COLUMNS, map(as_row, observations))


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows in the order of `columns`; None becomes an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomic(path, text.getvalue())
