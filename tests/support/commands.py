"""The console scripts as a user runs them: real subprocesses in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MODULES = {"pipeprobe": "serving", "pipeprobe-train": "training"}


def run_script(script: str, *arguments: str | Path, cwd: Path, timeout_s: float = 240) -> str:
    """Run `pipeprobe` or `pipeprobe-train`; returns stdout, fails the test with the output on a bad exit."""
    result = subprocess.run(
        [sys.executable, "-m", MODULES[script], *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert result.returncode == 0, f"{script} {arguments}\n{result.stdout}\n{result.stderr}"
    return result.stdout
