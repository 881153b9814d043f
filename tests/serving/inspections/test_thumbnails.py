"""Whatever becomes a finding has a picture, though pictures are chosen before anybody knows the findings."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.inspections.findings import FindingRules, find_findings
from serving.inspections.pictures import Picture
from serving.inspections.thumbnails import PeakPictures
from serving.inspections.video import Sample
from serving.pairs.manifest import Calibration

CALIBRATION = Calibration(slope=1, intercept=0, n=1, data="none")
NO_EVIDENCE = np.full((2, 2), -50, np.float32)


def sample(time_s: float, grey: int) -> Sample:
    pixels = np.full((16, 16, 3), grey, np.uint8)
    raw = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    picture = Picture(raw=raw, sample_aspect=Fraction(1), is_field=False, coded_size=(16, 16))
    return Sample(pts_s=time_s, frame=pixels, picture=picture)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.25, 0.5, 0.5, 0.7, 2.0]), st.sampled_from([0.1, 0.4, 0.6, 0.8, 0.8])),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from([0.0, 0.5, 3.0]),
    st.sampled_from([0.5, 0.7, 2.0]),
)
def test_each_finding_has_the_picture_of_its_peak(
    gaps_and_scores: list[tuple[float, float]], join_gap_s: float, step_s: float
) -> None:
    gaps, scores = zip(*gaps_and_scores, strict=True)
    times = np.cumsum(gaps).tolist()
    rules = FindingRules(enter=0.6, leave=0.3, min_duration_s=0, join_gap_s=join_gap_s)
    with PeakPictures(enter=0.6, step_s=0.5, calibration=CALIBRATION) as peaks:
        for i, (time_s, score) in enumerate(zip(times, scores, strict=True)):
            peaks.see(sample(time_s, 10 * i), score, NO_EVIDENCE)
        # Findings are made with the spacing that was achieved, which is known only afterwards.
        for finding in find_findings(times, scores, rules, step_s=step_s):
            with Image.open(BytesIO(peaks.jpeg_at(finding.peak_s))) as photo:
                grey = np.asarray(photo).mean()
            assert grey == pytest.approx(10 * times.index(finding.peak_s), abs=2)


def test_evidence_colours_the_picture() -> None:
    with PeakPictures(enter=0.6, step_s=0.5, calibration=CALIBRATION) as peaks:
        peaks.see(sample(0, 100), 0.9, np.array([[50, -50], [50, -50]], np.float32))
        with Image.open(BytesIO(peaks.jpeg_at(0))) as photo:
            red, green, _ = np.asarray(photo).astype(float).transpose(2, 0, 1)
    assert (red - green)[:, :4].mean() > 50 > 20 > abs((red - green)[:, -4:].mean())
