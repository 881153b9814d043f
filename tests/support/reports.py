"""Output folders as `pipeprobe videos` leaves them, written without scoring anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from serving.formats import csv_rows, json_file
from serving.formats.frames_parquet import Frames, write_frames
from serving.formats.observation import Origin, observe
from serving.inspections.findings import Finding

SHA256 = "ab" * 32
STEP_S = 0.5
ENTER = 0.6


def write_scored(
    folder: Path,
    *,
    video: str = "run.mp4",
    sha256: str = SHA256,
    duration_s: float = 60.0,
    intervals: Sequence[tuple[float, float]] = ((10.0, 14.0), (40.0, 41.0)),
    unscored: Sequence[tuple[float, float]] = (),
    lost: Sequence[tuple[float, float]] = (),
    with_bare: bool = True,
) -> dict[str, Any]:
    """A video's folder with a finding, its peak at the start, at each interval; returns its `findings.json`."""
    origin = Origin(
        video=video, video_sha256=sha256, operating_point="balanced", threshold=ENTER, pair="tiny", pair_version="1.0"
    )
    folder.mkdir(parents=True)
    observations = []
    for number, (start_s, end_s) in enumerate(intervals, start=1):
        frames = round((end_s - start_s) / STEP_S)
        finding = Finding(
            start_s=start_s, end_s=end_s, peak_s=start_s, peak_score=0.9, mean_score=0.8, frames=max(1, frames)
        )
        observations.append(observe(finding, origin, f"peak_{number:03d}.jpg"))
        for name in (f"peak_{number:03d}.jpg", f"peak_{number:03d}_bare.jpg")[: 1 + with_bare]:
            Image.fromarray(np.full((96, 128, 3), (200, 60, 60), np.uint8)).save(folder / name)
    times_s = np.arange(0, duration_s, STEP_S)
    inside = np.zeros(len(times_s), bool)
    for start_s, end_s in intervals:
        inside |= (times_s >= start_s) & (times_s < end_s)
    write_frames(folder / "frames.parquet", made_up_frames(times_s.tolist(), np.where(inside, 0.9, 0.1).tolist()), {})
    csv_rows.write_observations(folder / "findings.csv", observations)
    return json_file.write_findings(
        folder / "findings.json", _about(video, sha256, duration_s, len(times_s), unscored, lost), observations
    )


def made_up_frames(
    times_s: Sequence[float], scores: Sequence[float], distances_m: Sequence[float | None] | None = None
) -> Frames:
    return Frames(
        pts_s=times_s,
        score=scores,
        logit=[0.0] * len(times_s),
        kind=["keyframe"] * len(times_s),
        score_source=["scored"] * len(times_s),
        distance_m=distances_m or [None] * len(times_s),
        distance_source=["none"] * len(times_s),
        distance_confidence=[None] * len(times_s),
    )


def _about(
    video: str,
    sha256: str,
    duration_s: float,
    sampled: int,
    unscored: Sequence[tuple[float, float]],
    lost: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    pictures = round(duration_s * 25)
    n_lost = round(sum(b - a for a, b in lost) * 25)
    return {
        "video": video,
        "video_path": f"/archive/{video}",
        "duration_s": duration_s,
        "reading": {
            "container": "mpeg",
            "codec": "mpeg2video",
            "width": 720,
            "height": 576,
            "sample_aspect": "16:15",
            "frame_rate": 25.0,
            "start_pts_s": 0.0,
            "step_s": STEP_S,
            "strategy": "keyframes",
            "pictures": pictures,
            "decoded": sampled,
            "sampled": sampled,
            "skipped": pictures - sampled - n_lost,
            "corrupt": 0,
            "corrupt_stretches": [],
            "lost": n_lost,
            "lost_stretches": [{"start_s": a, "end_s": b} for a, b in lost],
            "keyframe_spacing_s": 0.48,
            "spacing_s": 0.48,
            "longest_gap_s": 0.5,
            "last_picture_s": duration_s - 0.04,
        },
        "sampling": {
            "scored": sampled,
            "still": 0,
            "between": 0,
            "unlocated": sampled,
            "spacing_m": None,
            "longest_gap_m": None,
        },
        "unscored": [{"start_s": a, "end_s": b} for a, b in unscored],
        "video_sha256": sha256,
        "scoring": {
            "pair": "tiny",
            "pair_version": "1.0",
            "pair_sha256": "cd" * 32,
            "variant": "fp32",
            "device": "cpu",
            "operating_point": "balanced",
            "every_s": STEP_S,
            "enter": ENTER,
            "leave": 0.4,
            "min_duration_s": 0.75,
            "join_gap_s": 1.0,
        },
        "peak_score": 0.9,
    }


def write_failures(out: Path, failures: Sequence[tuple[str, str]]) -> None:
    """`summary.json` of a call in which these videos failed: path and reason of each."""
    results = [
        {"video": video, "status": "failed", "folder": Path(video).stem, "reason": reason} for video, reason in failures
    ]
    (out / "summary.json").write_text(json.dumps({"videos": {}, "scoring": {}, "results": results}))
