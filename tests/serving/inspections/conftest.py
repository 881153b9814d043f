from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_pair import write_tiny_pair

from serving.pairs.pair import load_pair
from serving.scorer import Scorer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_pair(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(models: Path) -> Scorer:
    return Scorer(load_pair(models / "tiny"), threads=1)
