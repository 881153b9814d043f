"""Observations of made-up inspections."""

from __future__ import annotations

from serving.formats.observation import Observation, Origin, observe
from serving.inspections.evidence_box import EvidenceBox
from serving.inspections.findings import Finding

FINDING = Finding(start_s=3723.4, end_s=3730, peak_s=3725.9, peak_score=0.91234567, mean_score=0.8, frames=13)
LATER = Finding(start_s=4000, end_s=4001, peak_s=4000.25, peak_score=0.000001, mean_score=0.8, frames=2)
BOX = EvidenceBox(x=540, y=0, width=180, height=144, picture_width=720, picture_height=576)


def origin(video: str = 'run "7", north.mpg', unscored: str = "") -> Origin:
    return Origin(
        video=video,
        video_sha256="ab" * 32,
        operating_point="recall_95",
        threshold=0.25,
        pair="tiny",
        pair_version="1.0.0",
        unscored=unscored,
    )


def observations(of: Origin) -> list[Observation]:
    """Two: one whose evidence lies at two o'clock, and one of which nothing more is known."""
    return [
        observe(FINDING, of, "peak_001.jpg", box=BOX, clock=2),
        observe(LATER, of, "peak_002.jpg"),
    ]
