"""Reviews to labels for training: an accepted finding shows a defect, a rejected one does not.

What nobody decided becomes no label. The videos are only read, and only if their content is what was reviewed.

Two ways to hand over, which say the same:

* labels of intervals (`write_labels`), for training that reads the videos itself: Video,From_s,To_s,Label;
* a data set in Sewer-ML's format (`write_dataset`): the frames that were scored within the intervals.

    DATASET/SewerML_Train.csv    Filename, WaterLevel (empty: nobody estimated it), VA, 17 classes, ND, Defect
    DATASET/inspections.csv      Filename, Inspection: the SHA-256 of the frame's video, so that none is split
    DATASET/train/*.png          the frames in the video's own pixels, losslessly
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from PIL import Image

from serving.durable import sha256_file
from serving.errors import ConfigError, DataError
from serving.formats import csv_rows
from serving.frames import Frame
from serving.inspections.review_file import ACCEPTED, UNREVIEWED, Decision, Review
from serving.inspections.sewer_ml_format import CLASS_CODES, CSV_COLUMNS, CSV_NAMES, IMAGE_FOLDERS
from serving.inspections.video import VideoReader

LABEL_COLUMNS = ("Video", "From_s", "To_s", "Label")

_SPLIT = "train"
_INSPECTIONS_CSV = "inspections.csv"
_NAMED_AT_MOST = 5
# Reviews hold times in whole milliseconds, videos in finer steps.
_ROUNDING_S = 0.0005
# The reader also makes a frame for a scorer, which nobody wants here.
_SMALLEST = 1


@dataclass(frozen=True, kw_only=True)
class ReviewedVideo:
    """A video and all that was decided about it, by one reviewer or several.

    Attributes:
        name: below the folder of videos, with slashes.
        every_s: most seconds between two scored frames, the smallest where reviews differ.
        decisions: accepted or rejected, in order of time; no two contradict each other.
    """

    path: Path
    name: str
    sha256: str
    every_s: float
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, kw_only=True)
class Written:
    """Frames in a data set, and accepted findings that were left out for want of a class."""

    defect: int
    normal: int
    left_out: int


def match_reviews(reviews: Sequence[Review], videos: Path) -> list[ReviewedVideo]:
    """Find the videos that reviews are about, anywhere below `videos`, by name and content; in order of name.

    Raises:
        DataError: a video is missing or has another content, reviews contradict each other, or decide nothing.
    """
    paths = _paths_by_name(videos, {review.video for review in reviews})
    by_video: dict[Path, list[Review]] = {}
    for review in reviews:
        by_video.setdefault(_video_of(review, paths[review.video], videos), []).append(review)
    matched = [_combine(path, videos, by_video[path]) for path in sorted(by_video)]
    if not any(video.decisions for video in matched):
        raise DataError("none of the reviews accepts or rejects a finding: there is nothing to import")
    return [video for video in matched if video.decisions]


def _paths_by_name(videos: Path, names: Iterable[str]) -> dict[str, list[Path]]:
    paths: dict[str, list[Path]] = {name: [] for name in names}
    for path in sorted(videos.rglob("*")):
        if path.name in paths and path.is_file():
            paths[path.name].append(path)
    return paths


def _video_of(review: Review, candidates: Sequence[Path], videos: Path) -> Path:
    if not candidates:
        raise DataError(f"{review.path} is about {review.video}, which is nowhere below {videos}; --videos names where")
    digests = {}
    for path in candidates:
        try:
            digests[path] = sha256_file(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if digests[path] == review.video_sha256:
            return path
    found = ", ".join(f"{path} ({digest[:12]}…)" for path, digest in digests.items())
    raise DataError(
        f"{review.path} is about {review.video} with SHA-256 {review.video_sha256[:12]}…, but there is only {found}: "
        "the video was changed since, or is another; score and review this one"
    )


def _combine(path: Path, videos: Path, reviews: Sequence[Review]) -> ReviewedVideo:
    decided = [each for review in reviews for each in review.decisions if each.decision != UNREVIEWED]
    decided.sort(key=lambda each: (each.start_s, each.end_s))
    for one, other in combinations(decided, 2):
        overlap = one.start_s < other.end_s and other.start_s < one.end_s
        if overlap and one.decision != other.decision:
            raise DataError(
                f"{one.place} is {one.decision} from {one.start_s} to {one.end_s} s, but {other.place} is "
                f"{other.decision} from {other.start_s} to {other.end_s} s: agree on one, and leave the other out"
            )
    return ReviewedVideo(
        path=path,
        name=path.relative_to(videos).as_posix(),
        sha256=reviews[0].video_sha256,
        every_s=min(review.every_s for review in reviews),
        decisions=tuple(decided),
    )


def write_labels(path: Path, videos: Sequence[ReviewedVideo]) -> int:
    """Write labels of intervals as CSV; returns how many. Raises `ConfigError` if the file is there already."""
    if path.exists():
        raise ConfigError(f"{path} is there already, perhaps with labels made by hand: name a new file")
    rows = [
        {
            "Video": video.name,
            "From_s": f"{each.start_s:.3f}",
            "To_s": f"{each.end_s:.3f}",
            "Label": "defect" if each.decision == ACCEPTED else "normal",
        }
        for video in videos
        for each in video.decisions
    ]
    csv_rows.write_rows(path, LABEL_COLUMNS, rows)
    return len(rows)


def write_dataset(
    out: Path,
    videos: Sequence[ReviewedVideo],
    *,
    skip_uncoded: bool = False,
    done: Callable[[ReviewedVideo], None] = lambda video: None,
) -> Written:
    """Write the frames within what was decided as a data set; `out` is whole afterwards or not there.

    Sewer-ML knows no defect without a class. An accepted finding whose code is none of the 17 is an error, or left out
    with `skip_uncoded`; a class is never made up.

    Raises:
        ConfigError: `out` is there already.
        DataError: an accepted finding has no class of Sewer-ML, or nothing is left to write.
        VideoError: a video cannot be decoded.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already: name a new folder")
    uncoded = [each for video in videos for each in video.decisions if _lacks_class(each)]
    if uncoded and not skip_uncoded:
        raise DataError(_uncoded_text(uncoded))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    try:
        rows: list[dict[str, object]] = []
        inspections: list[dict[str, str]] = []
        (partial / IMAGE_FOLDERS[_SPLIT]).mkdir(parents=True)
        for video in videos:
            for name, decided in _write_frames(video, partial / IMAGE_FOLDERS[_SPLIT]):
                rows.append(_annotation(name, decided))
                inspections.append({"Filename": name, "Inspection": video.sha256})
            done(video)
        if not rows:
            raise DataError("every decision is an accepted finding without a class: give them class codes")
        csv_rows.write_rows(partial / CSV_NAMES[_SPLIT], CSV_COLUMNS, rows)
        csv_rows.write_rows(partial / _INSPECTIONS_CSV, ("Filename", "Inspection"), inspections)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    defect = sum(row["Defect"] == 1 for row in rows)
    return Written(defect=defect, normal=len(rows) - defect, left_out=len(uncoded))


def _lacks_class(decision: Decision) -> bool:
    return decision.decision == ACCEPTED and decision.code not in CLASS_CODES


def _uncoded_text(uncoded: Sequence[Decision]) -> str:
    named = "; ".join(f"{each.place}: {each.code or 'no code'}" for each in uncoded[:_NAMED_AT_MOST])
    more = f"; and {len(uncoded) - _NAMED_AT_MOST} more" if len(uncoded) > _NAMED_AT_MOST else ""
    return (
        f"{len(uncoded)} accepted findings have no class of Sewer-ML ({named}{more}), and its format knows no defect "
        f"without one. Give them one of {', '.join(CLASS_CODES)} in the report; or leave them out with --skip-uncoded; "
        "or write --labels, which need no class"
    )


def _write_frames(video: ReviewedVideo, folder: Path) -> Iterator[tuple[str, list[Decision]]]:
    """Save the video's frames that were decided; each one's file name, and the decisions that it lies in."""
    kept = [each for each in video.decisions if not _lacks_class(each)]
    unseen = set(range(len(kept)))
    names: set[str] = set()
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", video.path.stem)[:60]
    # Read to its end only where something is decided.
    for sample in VideoReader(video.path, every_s=video.every_s, size=_SMALLEST) if kept else ():
        within = [n for n, each in enumerate(kept) if _contains(each, sample.pts_s)]
        name = f"{stem}-{video.sha256[:8]}_{round(sample.pts_s * 1000):09d}.png"
        if not within or name in names:  # stamps closer than a millisecond share a name
            continue
        names.add(name)
        unseen -= set(within)
        _save(folder / name, sample.picture.to_rgb())
        yield name, [kept[n] for n in within]
    if unseen:
        lost = kept[min(unseen)]
        raise DataError(f"{lost.place}: {video.path} has no frame from {lost.start_s} to {lost.end_s} s")


def _contains(decision: Decision, time_s: float) -> bool:
    return decision.start_s - _ROUNDING_S <= time_s < decision.end_s - _ROUNDING_S


def _save(path: Path, frame: Frame) -> None:
    Image.fromarray(frame).save(path, compress_level=1)


def _annotation(name: str, decided: Sequence[Decision]) -> dict[str, object]:
    codes = {each.code for each in decided if each.decision == ACCEPTED}
    classes = {code: int(code in codes) for code in CLASS_CODES}
    defect = int(bool(codes))
    return {"Filename": name, "WaterLevel": "", "VA": 0, **classes, "ND": 1 - defect, "Defect": defect}
