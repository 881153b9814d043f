"""Which releases of this project and of what it stands on are running."""

from __future__ import annotations

import importlib.metadata
import platform

# What decodes, scores and writes.
_DISTRIBUTIONS = ("av", "numpy", "onnxruntime-gpu", "onnxruntime", "pillow", "pyarrow")


def version_of(distribution: str) -> str:
    """Version of an installed distribution; `source` for this project where it is not installed, as in a Bento.

    Raises `PackageNotFoundError` for any other.
    """
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        if distribution == "pipeprobe":
            return "source"
        raise


def versions() -> dict[str, str]:
    """By name: of this project, of Python, and of those installed distributions that decide what comes out."""
    installed = {}
    for distribution in _DISTRIBUTIONS:
        try:
            installed[distribution] = version_of(distribution)
        except importlib.metadata.PackageNotFoundError:  # ONNX Runtime goes by either name
            continue
    return {"pipeprobe": version_of("pipeprobe"), "python": platform.python_version(), **installed}
