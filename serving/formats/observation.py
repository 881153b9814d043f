"""One row of a deliverable: a finding as an observation that nobody has reviewed yet."""

from __future__ import annotations

from dataclasses import dataclass, fields

from serving.findings import Finding

UNREVIEWED = "unreviewed"
NO_DISTANCE = "none"


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The columns of the sewer domain that a binary pair can fill, and our own.

    The pair knows no defect class: `code` stays empty until a person fills it in. `distance_m` is empty, and
    `distance_source` says none, where no distance is known: no metre is better than a wrong one.
    """

    video: str
    video_sha256: str
    video_time: str
    start_s: float
    end_s: float
    frame_pts_s: float
    distance_m: float | None
    distance_source: str
    code: str
    score: float
    mean_score: float
    operating_point: str
    threshold: float
    pair: str
    pair_version: str
    review_state: str
    photo: str
    remark: str


COLUMNS: tuple[str, ...] = tuple(f.name for f in fields(Observation))


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What all observations of one inspection share."""

    video: str
    video_sha256: str
    operating_point: str
    threshold: float
    pair: str
    pair_version: str


def observe(finding: Finding, origin: Origin, photo: str) -> Observation:
    """A finding as an unreviewed row; `photo` is the file of its peak frame."""
    return Observation(
        video=origin.video,
        video_sha256=origin.video_sha256,
        video_time=clock_time(finding.peak_s),
        start_s=round(finding.start_s, 3),
        end_s=round(finding.end_s, 3),
        frame_pts_s=round(finding.peak_s, 3),
        distance_m=None,
        distance_source=NO_DISTANCE,
        code="",
        score=round(finding.peak_score, 6),
        mean_score=round(finding.mean_score, 6),
        operating_point=origin.operating_point,
        threshold=origin.threshold,
        pair=origin.pair,
        pair_version=origin.pair_version,
        review_state=UNREVIEWED,
        photo=photo,
        remark="",
    )


def clock_time(seconds: float) -> str:
    """`HH:MM:SS` of the video, as inspection software writes it."""
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
