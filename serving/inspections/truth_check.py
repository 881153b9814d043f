"""Findings of an inspection against the truth that lies beside a simulated one (`NAME.truth.json`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.inspections.matching import Interval, Matching, flagged_normal_share, match_findings, merge_intervals


@dataclass(frozen=True, kw_only=True)
class TruthCheck:
    """How findings compare with the truth.

    Attributes:
        events: stretches with anything to find; classes that overlap, or nearly touch, are one event, since a pair
            tells defect from normal and not one class from another.
        codes: the classes of each event.
        findings: `findings.json`'s own entries, in order.
        matching: events against findings.
        flagged_normal: see `serving.inspections.matching.flagged_normal_share`.
    """

    events: tuple[Interval, ...]
    codes: tuple[tuple[str, ...], ...]
    findings: tuple[dict[str, Any], ...]
    matching: Matching
    flagged_normal: float
    duration_s: float


def check_findings(findings_file: Path, truth_file: Path, *, tolerance_s: float) -> TruthCheck:
    """Compare `findings.json` of a scored video with its truth; a finding hits an event at most `tolerance_s` away."""
    findings = json.loads(findings_file.read_text())["findings"]
    truth = json.loads(truth_file.read_text())
    true_spans = [Interval(start_s=t["start_s"], end_s=t["end_s"]) for t in truth["findings"]]
    events = merge_intervals(true_spans, gap_s=tolerance_s)
    codes = [
        sorted({t["code"] for t, span in zip(truth["findings"], true_spans, strict=True) if span.overlaps(event, 0.0)})
        for event in events
    ]
    spans = [Interval(start_s=f["start_s"], end_s=f["end_s"]) for f in findings]
    return TruthCheck(
        events=tuple(events),
        codes=tuple(tuple(each) for each in codes),
        findings=tuple(findings),
        matching=match_findings(events, spans, tolerance_s=tolerance_s),
        flagged_normal=flagged_normal_share(events, spans, tolerance_s=tolerance_s, duration_s=truth["duration_s"]),
        duration_s=truth["duration_s"],
    )
