"""Scoring image files: find them, decode them in threads ahead of the scorer, report each one's result."""

from __future__ import annotations

import glob
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.devices import available_cores
from serving.errors import FrameError, RequestError
from serving.frames import SUFFIXES, Frame, decode_bytes, read_image_bytes
from serving.scorer import Scorer, Verdict

# Decoded batches that may wait for the scorer; more would only hold memory.
_BATCHES_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """A file to score; `label` is its path below the folder that was named, or its name."""

    path: Path
    label: Path


@dataclass(frozen=True, kw_only=True)
class FileScore:
    """What the pair says about one file; `evidence` is float32 [h, w]."""

    file: ImageFile
    verdict: Verdict
    score: float
    logit: float
    evidence: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FileFailure:
    """Why one file could not be scored."""

    file: ImageFile
    error: FrameError


def collect_files(arguments: Iterable[str]) -> list[ImageFile]:
    """Image files that paths, folders (searched recursively) and glob patterns name, in order, each once.

    A path that names no file is kept, so that it is reported like any file that cannot be read. Raises
    `RequestError` for a folder without images and for a pattern that matches nothing.
    """
    found: dict[Path, ImageFile] = {}
    for argument in arguments:
        for file in _expand(argument):
            found.setdefault(file.path, file)
    return list(found.values())


def _expand(argument: str) -> list[ImageFile]:
    path = Path(argument)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            endings = ", ".join(sorted(SUFFIXES))
            raise RequestError(f"no images in folder {path} (looked for {endings})")
        return [ImageFile(path=file, label=file.relative_to(path)) for file in files]
    if not path.exists() and glob.has_magic(argument):
        # Not Path.glob, which takes no absolute patterns; Windows shells leave patterns to the program.
        matches = sorted(Path(match) for match in glob.glob(argument, recursive=True))  # noqa: PTH207
        files = [match for match in matches if match.is_file()]
        if not files:
            raise RequestError(f"no file matches {argument!r}")
        return [ImageFile(path=file, label=Path(file.name)) for file in files]
    return [ImageFile(path=path, label=Path(path.name))]


def score_files(files: Sequence[ImageFile], scorer: Scorer, threshold: float) -> Iterator[FileScore | FileFailure]:
    """Score files in batches, in their order; one that cannot be decoded becomes a `FileFailure`."""
    for batch, decoded in _decode_batches(files, scorer.pair.manifest.image_size, scorer.max_batch):
        frames = [frame for frame in decoded if not isinstance(frame, FrameError)]
        results: Iterator[tuple[Verdict, float, float, NDArray[np.float32]]] = iter(())
        if frames:
            scores = scorer.score(np.stack(frames))
            results = zip(
                scores.verdicts(threshold),
                scores.score.tolist(),
                scores.logit.tolist(),
                scores.evidence,
                strict=True,
            )
        for file, frame in zip(batch, decoded, strict=True):
            if isinstance(frame, FrameError):
                yield FileFailure(file=file, error=frame)
            else:
                verdict, score, logit, evidence = next(results)
                yield FileScore(file=file, verdict=verdict, score=score, logit=logit, evidence=evidence)


def _decode_batches(
    files: Sequence[ImageFile], size: int, batch_size: int
) -> Iterator[tuple[Sequence[ImageFile], list[Frame | FrameError]]]:
    waiting: deque[tuple[Sequence[ImageFile], list[Future[Frame | FrameError]]]] = deque()
    with ThreadPoolExecutor(available_cores(), thread_name_prefix="decode") as pool:
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            waiting.append((batch, [pool.submit(_decode, file.path, size) for file in batch]))
            if len(waiting) > _BATCHES_AHEAD:
                ready, futures = waiting.popleft()
                yield ready, [future.result() for future in futures]
        for ready, futures in waiting:
            yield ready, [future.result() for future in futures]


def _decode(path: Path, size: int) -> Frame | FrameError:
    try:
        return decode_bytes(read_image_bytes(path), size)
    except FrameError as error:
        return error
