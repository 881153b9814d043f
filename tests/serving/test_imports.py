"""`serving` must work where nothing of the training environment is installed."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import serving

MODULES = ["serving", *sorted(m.name for m in pkgutil.walk_packages(serving.__path__, "serving."))]

# `python -m` entry points run when they are imported.
MODULES = [name for name in MODULES if not name.endswith("__main__")]

PROGRAM = """
import importlib, sys, warnings

class Blocker:
    BLOCKED = {"torch", "timm", "torchvision", "lightly", "sklearn", "onnxscript", "training"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

sys.meta_path.insert(0, Blocker())
failed = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        failed.append(f"{name}: {error}")
assert not failed, failed
loaded = Blocker.BLOCKED & {name.partition(".")[0] for name in sys.modules}
assert not loaded, loaded
"""


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(serving.__path__[0]).parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_module_imports_without_torch_and_without_training() -> None:
    done = run_python("-c", PROGRAM, *MODULES)
    assert done.returncode == 0, done.stderr


def test_the_blocker_would_notice() -> None:
    done = run_python("-c", PROGRAM, "training.metrics")
    assert done.returncode != 0
    assert "blocked" in done.stderr


@pytest.mark.parametrize("module", ["serving.cli", "training.cli"])
def test_the_command_lines_start_without_heavy_imports(module: str) -> None:
    heavy = "{'onnxruntime', 'torch', 'timm', 'bentoml', 'av', 'PIL', 'numpy'}"
    done = run_python("-c", f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stderr
