"""One row of a deliverable: a finding as an observation that nobody has reviewed yet."""

from __future__ import annotations

from dataclasses import dataclass, fields

from serving.findings import Finding

UNREVIEWED = "unreviewed"
NO_DISTANCE = "none"


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The columns of an inspection's observations, and our own; None or empty where nothing is known.

    A binary pair knows neither what the defect is nor where on the circumference, so `code` and all that qualifies
    it stay empty until a person fills them in. Where no distance is known, `distance_m` is empty and
    `distance_source` says `none`: no metre is better than a wrong one.

    Attributes:
        video_time: HH:MM:SS of the peak frame, which `photo` shows and `frame_pts_s` gives exactly.
        start_s, end_s: the finding's interval, seconds from the video's start; see `serving.findings`.
        score, mean_score: of the peak frame, and over the `frames` sampled frames of the interval.
        review_state: `unreviewed` for all that no person has looked at.
    """

    video: str
    distance_m: float | None
    code: str
    char1: str
    char2: str
    quantity: float | None
    clock_from: float | None
    clock_to: float | None
    continuous: str
    at_joint: str
    video_time: str
    photo: str
    remark: str
    start_s: float
    end_s: float
    frame_pts_s: float
    score: float
    mean_score: float
    frames: int
    operating_point: str
    threshold: float
    pair: str
    pair_version: str
    review_state: str
    distance_source: str
    distance_confidence: float | None
    video_sha256: str


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Observation))


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
    """A finding as an unreviewed row; `photo` is the file name of its peak's picture."""
    return Observation(
        video=origin.video,
        distance_m=None,
        code="",
        char1="",
        char2="",
        quantity=None,
        clock_from=None,
        clock_to=None,
        continuous="",
        at_joint="",
        video_time=clock_time(finding.peak_s),
        photo=photo,
        remark="",
        start_s=round(finding.start_s, 3),
        end_s=round(finding.end_s, 3),
        frame_pts_s=round(finding.peak_s, 3),
        score=round(finding.peak_score, 6),
        mean_score=round(finding.mean_score, 6),
        frames=finding.frames,
        operating_point=origin.operating_point,
        threshold=origin.threshold,
        pair=origin.pair,
        pair_version=origin.pair_version,
        review_state=UNREVIEWED,
        distance_source=NO_DISTANCE,
        distance_confidence=None,
        video_sha256=origin.video_sha256,
    )


def clock_time(seconds: float) -> str:
    """`HH:MM:SS` of the video, as inspection software writes it; fractions are cut off, as counters do."""
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
