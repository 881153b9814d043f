"""What a number was made with: git revision, package versions, hardware, command."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

# The distributions whose version can change a trained weight or a measured figure.
PACKAGES = (
    "pipeprobe",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "av",
    "scikit-learn",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
)
NO_REVISION = "unknown"


def provenance(command: str) -> dict[str, Any]:
    """`command` with the keys `git_revision`, `packages` (name -> version, and `python`) and `hardware`."""
    return {
        "command": command,
        "git_revision": git_revision(),
        "packages": package_versions(),
        "hardware": hardware(),
    }


def portable(value: Any) -> Any:
    """As JSON holds it, and without the folders of this machine: absolute paths shrink to their last part."""
    if isinstance(value, dict):
        return {str(key): portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, str):
        return " ".join(_last_part(word) for word in value.split(" "))
    return value


def _last_part(word: str) -> str:
    before, equals, path = word.rpartition("=")
    return before + equals + Path(path).name if path.startswith("/") and len(path) > 1 else word


def git_revision() -> str:
    """Commit of the source tree, `-dirty` added when tracked files differ; "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    # An installed copy may lie inside some other repository, whose commit would say nothing.
    if not (root / ".git").exists():
        return NO_REVISION
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return NO_REVISION
    return f"{commit}-dirty" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def package_versions() -> dict[str, str]:
    """Versions of Python and of those of `PACKAGES` that are installed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> str:
    """One line: processor, usable cores, GPUs."""
    parts = [f"{_processor()}, {len(os.sched_getaffinity(0))} cores"]
    parts += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return " + ".join(parts)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
