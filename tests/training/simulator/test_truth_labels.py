"""Labels of simulated inspections: every second is defect or normal, and which follows from the findings alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.retrain.labels import read_labels
from training.simulator.truth import TrueFinding, Truth, labelled_stretches, write_labels


def truth_with(*intervals: tuple[float, float]) -> Truth:
    findings = tuple(
        TrueFinding(code="RB", start_s=start, end_s=end, peak_s=start, start_m=0, end_m=1, peak_share=0.1)
        for start, end in intervals
    )
    return Truth(
        video="inspection-000.mp4", seed=0, profile="standard", codec="h264", width=720, height=576, fps=25,
        frames=250, duration_s=10.0, length_m=4.8, material="clay", diameter_m=0.3, track=((0.0, 0.3),),
        findings=findings,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("intervals", "stretches"),
    [
        ((), [(0, 10, "normal")]),
        (((0, 10),), [(0, 10, "defect")]),
        (((2, 4),), [(0, 2, "normal"), (2, 4, "defect"), (4, 10, "normal")]),
        # Overlapping, nested and touching findings are one stretch.
        (((1, 5), (2, 3), (4, 7), (7, 8)), [(0, 1, "normal"), (1, 8, "defect"), (8, 10, "normal")]),
    ],
)
def test_stretches_cover_the_inspection(
    intervals: tuple[tuple[float, float], ...], stretches: list[tuple[float, float, str]]
) -> None:
    assert labelled_stretches(truth_with(*intervals)) == stretches


def test_retrain_reads_what_is_written(tmp_path: Path) -> None:
    write_labels([truth_with((2, 4.5))], tmp_path / "labels.csv")
    labels = read_labels(tmp_path / "labels.csv")
    assert [(label.name, label.from_s, label.to_s, label.label) for label in labels] == [
        ("inspection-000.mp4", 0, 2, 0),
        ("inspection-000.mp4", 2, 4.5, 1),
        ("inspection-000.mp4", 4.5, 10, 0),
    ]
