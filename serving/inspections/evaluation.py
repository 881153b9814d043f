"""Inspections that `pipeprobe videos` has scored, put together with what is known to be in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError
from serving.formats import frames_parquet
from serving.formats.frames_parquet import Frames
from serving.inspections.findings import FindingRules
from serving.inspections.matching import merge_intervals
from serving.inspections.review_curve import Axis, Inspection
from serving.inspections.truth_files import KnownVideo

# Share of a video's frames whose distance must be known, for metres to be those of its pipe.
_LEAST_LOCATED = 0.5


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What is evaluated.

    Attributes:
        scoring: what all of them were scored with, as `findings.json` says.
        distances: how many inspections have their distances from `truth`, and from `scored` frames.
        unknown: scored videos of which nothing is known, left out.
        unscored: known videos that were not scored, left out.
    """

    inspections: tuple[Inspection, ...]
    scoring: dict[str, Any]
    rules: FindingRules
    axis: Axis
    distances: dict[str, int]
    unknown: tuple[str, ...]
    unscored: tuple[str, ...]


def put_together(
    documents: Mapping[Path, dict[str, Any]], known: Mapping[str, KnownVideo], *, tolerances: Mapping[Axis, float]
) -> Scored:
    """Join scored folders (`findings.json` by folder) with what is known of their videos, by the videos' names.

    What is known to lie no farther apart than the tolerance becomes one event, since one finding could be both.

    Raises:
        ConfigError: no video is known, or nothing in any, two share a name, they were scored differently, or distances
            are missing.
    """
    names = [document["video"] for document in documents.values()]
    twice = sorted({name for name in names if names.count(name) > 1 and name in known})
    if twice:
        raise ConfigError(f"two scored videos are called {twice[0]}: evaluate their batches one by one")
    matched = {folder: document for folder, document in documents.items() if document["video"] in known}
    if not matched:
        raise ConfigError(f"of the scored videos ({', '.join(names[:3])} ...) none is among those that are known")
    scorings = [document["scoring"] for document in matched.values()]
    if any(scoring != scorings[0] for scoring in scorings):
        raise ConfigError("the videos were scored with different pairs or settings: score them again in one call")
    if not any(known[document["video"]].spans for document in matched.values()):
        raise ConfigError("nothing is known to be in any of the scored videos, so nothing can be found or missed")
    axis = known[next(iter(matched.values()))["video"]].axis
    pairs = [(folder, document, known[document["video"]]) for folder, document in matched.items()]
    return Scored(
        inspections=tuple(_inspection(folder, doc, video, tolerances[axis]) for folder, doc, video in pairs),
        scoring=scorings[0],
        rules=FindingRules(**{name: scorings[0][name] for name in ("enter", "leave", "min_duration_s", "join_gap_s")}),
        axis=axis,
        distances={
            "truth": sum(video.track is not None for *_, video in pairs),
            "scored": sum(video.track is None for *_, video in pairs),
        },
        unknown=tuple(name for name in names if name not in known),
        unscored=tuple(name for name in known if name not in names),
    )


def _inspection(folder: Path, document: Mapping[str, Any], video: KnownVideo, tolerance: float) -> Inspection:
    frames = frames_parquet.read_frames(folder / frames_parquet.FILE)
    track = video.track if video.track is not None else _track_of(frames, document["video"])
    try:
        return Inspection(
            name=document["video"],
            times_s=np.asarray(frames.pts_s, np.float64),
            scores=np.asarray(frames.score, np.float64),
            step_s=document["reading"]["step_s"],
            track_s=track[:, 0],
            track_m=track[:, 1],
            events=tuple(merge_intervals(video.spans, gap_s=tolerance)),
            axis=video.axis,
        )
    except ValueError as error:
        raise ConfigError(f"{folder} cannot be evaluated by the metre: {error}") from error


def _track_of(frames: Frames, name: str) -> NDArray[np.float64]:
    """Times and distances [K, 2] of the frames whose distance is known; before, between and after them it is filled."""
    distances = np.array(frames.distance_m, np.float64)
    is_known = np.isfinite(distances)
    if is_known.mean() < _LEAST_LOCATED:
        raise ConfigError(
            f"{name}: the distance is known of {100 * is_known.mean():.0f} % of its frames, and metres need "
            f"{100 * _LEAST_LOCATED:.0f} %: put {name}.distance.csv beside the video (time_s,distance_m), score again"
        )
    return np.stack([np.array(frames.pts_s)[is_known], distances[is_known]], axis=1)
