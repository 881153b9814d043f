"""One row of a deliverable: a finding as an observation that nobody has reviewed yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from serving.inspections.distance import NOWHERE, Place
from serving.inspections.evidence_box import EvidenceBox
from serving.inspections.findings import Finding

UNREVIEWED = "unreviewed"
NOT_KNOWN = "none"
ESTIMATED = "estimated"

OWN_COLUMNS = (
    "score",
    "operating_point",
    "threshold",
    "pair",
    "pair_version",
    "review_state",
    "distance_source",
    "distance_confidence",
    "clock_source",
    "frame_pts_s",
    "video_sha256",
)
"""What no exchange format has a place for; its files carry these after their own columns."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The columns of an inspection's observations, and our own; None or empty where nothing is known.

    A binary pair does not know what the defect is, so `code` and all that qualifies it stay empty until a person fills
    them in. Where no distance is known, `distance_m` is empty and `distance_source` says `none`: no metre is better
    than a wrong one.

    Attributes:
        clock_from: hour at which the evidence lies, as `serving.inspections.evidence_box` estimates it; `clock_source`
            is then `estimated`, and `none` where it points in no direction. `clock_to` stays empty: an hour alone is a
            place, and twice the same hour would be the whole circumference.
        video_time: HH:MM:SS of the peak frame, which `photo` shows and `frame_pts_s` gives exactly.
        start_s, end_s: the finding's interval, seconds from the video's start; see `serving.inspections.findings`.
        score, mean_score: of the peak frame, and over the `frames` sampled frames of the interval.
        evidence_box: where on the peak frame the evidence lies; None where that is not known.
        review_state: `unreviewed` for all that no person has looked at.
    """

    video: str
    distance_m: float | None
    code: str
    char1: str
    char2: str
    quantity: float | None
    clock_from: int | None
    clock_to: int | None
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
    clock_source: str
    evidence_box: EvidenceBox | None
    video_sha256: str


_BOX_COLUMNS = tuple(f"evidence_box_{field.name}" for field in fields(EvidenceBox))

COLUMNS: tuple[str, ...] = tuple(
    column
    for field in fields(Observation)
    for column in (_BOX_COLUMNS if field.name == "evidence_box" else (field.name,))
)
"""Of a table of observations, which has a column for each part of the box."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What all observations of one inspection share.

    `unscored` names the stretches of the video that nothing was scored of; empty if there are none.
    """

    video: str
    video_sha256: str
    operating_point: str
    threshold: float
    pair: str
    pair_version: str
    unscored: str = ""


def observe(
    finding: Finding,
    origin: Origin,
    photo: str,
    *,
    place: Place = NOWHERE,
    box: EvidenceBox | None = None,
    clock: int | None = None,
) -> Observation:
    """A finding as an unreviewed row.

    `photo` is the file name of its peak's picture, `place` where that was taken, `clock` an estimated hour.
    """
    return Observation(
        video=origin.video,
        distance_m=place.distance_m,
        code="",
        char1="",
        char2="",
        quantity=None,
        clock_from=clock,
        clock_to=None,
        continuous="",
        at_joint="",
        video_time=clock_time(finding.peak_s),
        photo=photo,
        remark=_remark(finding, clock),
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
        distance_source=place.source,
        distance_confidence=place.confidence,
        clock_source=NOT_KNOWN if clock is None else ESTIMATED,
        evidence_box=box,
        video_sha256=origin.video_sha256,
    )


def _remark(finding: Finding, clock: int | None) -> str:
    """What inspection software shows a person, whatever columns it drops: that no person has looked at this."""
    interval = f"{clock_time(finding.start_s)} to {clock_time(finding.end_s)}"
    remark = f"UNREVIEWED machine finding with score {finding.peak_score:.3f} from {interval}"
    return remark if clock is None else f"{remark}; clock position ESTIMATED from where the evidence lies"


def inspection_remark(origin: Origin, n_findings: int) -> str:
    """What an inspection's header says of where its rows come from, also where there are none."""
    remark = (
        f"{n_findings} UNREVIEWED machine findings of pair {origin.pair} {origin.pair_version} at "
        f"{origin.operating_point} (threshold {origin.threshold:g}); video SHA-256 {origin.video_sha256}"
    )
    return f"{remark}; not scored: {origin.unscored}" if origin.unscored else remark


def as_row(observation: Observation) -> dict[str, Any]:
    """An observation by `COLUMNS`; None where nothing is known."""
    row = asdict(observation)
    box: Mapping[str, int] = row.pop("evidence_box") or {}
    return row | {column: box.get(column.removeprefix("evidence_box_")) for column in _BOX_COLUMNS}


def clock_time(seconds: float) -> str:
    """`HH:MM:SS` of the video, as inspection software writes it; fractions are cut off, as counters do."""
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
