"""Bentos of the service with pairs of a test's choosing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support.live_service import ROOT

BUILD_TIMEOUT_S = 120


def build_bento(*, models: Path, home: Path, edit: Callable[[Path], None] | None = None) -> Path:
    """Run `bentoml build` on a copy of the tree whose `models/` is `models`; returns the Bento's folder.

    `home` becomes BENTOML_HOME; `edit` may change the copy before the build.
    """
    tree = home.parent / f"{home.name}-tree"
    tree.mkdir(parents=True)
    shutil.copy(ROOT / "bentofile.yaml", tree)
    shutil.copytree(ROOT / "serving", tree / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(models, tree / "models")
    if edit is not None:
        edit(tree)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PIPEPROBE_")}
    result = subprocess.run(
        [sys.executable, "-m", "bentoml", "build", "--output", "tag"],
        cwd=tree,
        env=kept | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    _, name, version = result.stdout.strip().splitlines()[-1].split(":")
    shutil.rmtree(tree)
    return home / "bentos" / name / version
