"""Real data that the project does not ship, for the tests that can use them where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.live_service import ROOT

SHARED_DATA = Path(os.environ.get("PIPEPROBE_SHARED_DATA", ROOT.parent / "shared" / "data"))


def shared_data(name: str) -> Path:
    """The file or folder `name` of the shared data; skips the test where it is missing."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"no data at {path}; PIPEPROBE_SHARED_DATA can say where they are")
    return path
