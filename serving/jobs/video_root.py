"""Videos named by path: only regular files that really lie under PIPEPROBE_VIDEO_ROOT.

A path that leads out, by `..` or by a symbolic link, gets the same answer as one that does not exist, so nobody can
find out by asking what else lies on the machine. The job's process asks again before it opens the file.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from serving.errors import RequestError, VideoError

_MAX_LENGTH = 1000


def plain_path(given: object) -> str:
    """The path as it is shown and compared: relative, without `.`, `..` and doubled slashes; else `RequestError`."""
    if not isinstance(given, str) or not given or len(given) > _MAX_LENGTH or not given.isprintable():
        raise RequestError(f"a path must be 1 to {_MAX_LENGTH} printable characters")
    path = PurePosixPath(given)
    if path.is_absolute() or ".." in path.parts or "\\" in given or str(path) == ".":
        raise RequestError("a path must be relative to the service's folder of videos and stay inside it, without ..")
    return str(path)


def resolve_video(root: Path, plain: str) -> Path:
    """The path that `plain_path` names under `root`; `VideoError` if no file is there, or if it lies elsewhere."""
    try:
        base = root.resolve(strict=True)
        found = (base / plain).resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: links that lead round in circles
        found = None
    if found is None or not found.is_relative_to(base) or not found.is_file():
        raise VideoError("there is no such video in the service's folder of videos")
    return base / plain
