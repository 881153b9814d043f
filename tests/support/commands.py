"""The console scripts as a user runs them: real subprocesses in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MODULES = {"pipeprobe": "serving", "pipeprobe-train": "training"}


def run_script(
    script: str, *arguments: str | Path, cwd: Path, models: Path | None = None, timeout_s: float = 900
) -> str:
    """Run `pipeprobe` or `pipeprobe-train`, with the pairs under `models` if given.

    Returns stdout, and fails the test with the output on a bad exit.
    """
    pairs = {"PIPEPROBE_MODELS": str(models)} if models else {}
    result = subprocess.run(
        [sys.executable, "-m", MODULES[script], *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "120"} | pairs,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert result.returncode == 0, f"{script} {arguments}\n{result.stdout}\n{result.stderr}"
    return result.stdout
