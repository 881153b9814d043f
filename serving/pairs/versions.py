"""Which releases of this project and of what it stands on are running."""

from __future__ import annotations

import importlib.metadata
import platform

# What decodes, scores and writes.
_DISTRIBUTIONS = ("av", "numpy", "onnxruntime-gpu", "onnxruntime", "pillow", "pyarrow")


def version_of(distribution: str) -> str:
    """Version of an installed distribution, else `unknown`; for this project `source`, as it runs in a Bento."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "source" if distribution == "pipeprobe" else "unknown"


def versions() -> dict[str, str]:
    """By name: of this project, of Python, and of those installed distributions that decide what comes out."""
    found = {distribution: version_of(distribution) for distribution in _DISTRIBUTIONS}
    # ONNX Runtime goes by either name.
    installed = {distribution: version for distribution, version in found.items() if version != "unknown"}
    return {"pipeprobe": version_of("pipeprobe"), "python": platform.python_version(), **installed}
