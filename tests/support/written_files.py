"""What commands wrote, read back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from serving.inspections.videos import LOCKS


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file under `folder`, by its path in it, but for locks, which hold nothing."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != LOCKS)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
