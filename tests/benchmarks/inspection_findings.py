"""Do the findings of a pair match the truth of simulated inspections?

    python tests/benchmarks/inspection_findings.py --out findings.json

Simulates inspections (or takes those that are in --videos), scores them with the default pair and the batch scorer's
own settings, and prints for each, and for all, the recall of true events, the false findings, and the share of the
normal time that findings flag. The truth's events are stretches in which any class is visible.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from serving.durable import write_json_atomic
from serving.inspections.truth_check import TruthCheck, check_findings
from serving.inspections.videos import VideoSettings, find_videos, score_videos
from serving.pairs.pair import find_pair, models_root
from serving.scorer import Scorer
from training.provenance import provenance
from training.simulator.inspections import InspectionsConfig, simulate_inspections

TOLERANCE_S = 1.0


def summarise(checks: list[TruthCheck]) -> dict[str, float]:
    """Over all inspections together: recall of events, false findings a minute, share of normal time flagged."""
    events = sum(len(check.events) for check in checks)
    minutes = sum(check.duration_s for check in checks) / 60
    return {
        "inspections": len(checks),
        "minutes": minutes,
        "events": events,
        "recall": sum(len(check.matching.found) for check in checks) / max(events, 1),
        "false_findings_per_minute": sum(len(check.matching.false_findings) for check in checks) / minutes,
        "flagged_normal": float(np.mean([check.flagged_normal for check in checks])),
    }


def print_checks(names: list[str], checks: list[TruthCheck]) -> None:
    """A row an inspection, and one for all."""
    table = Table()
    for heading in ("inspection", "events", "found", "findings", "false", "normal time flagged"):
        table.add_column(heading, justify="left" if heading == "inspection" else "right")
    for name, check in zip(names, checks, strict=True):
        found, false = len(check.matching.found), len(check.matching.false_findings)
        counts = (len(check.events), found, len(check.findings), false)
        table.add_row(name, *map(str, counts), f"{100 * check.flagged_normal:.0f} %")
    Console().print(table)


@click.command()
@click.option("--videos", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Inspections to take.")
@click.option("--count", default=10, show_default=True, help="Inspections to simulate.")
@click.option("--duration-s", default=60.0, show_default=True)
@click.option("--seed", default=2000, show_default=True)
@click.option("--profile", default="standard", show_default=True, type=click.Choice(["standard", "shifted"]))
@click.option("--operating-point", default="specificity_95", show_default=True)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="JSON file to write.")
def main(
    videos: Path | None, count: int, duration_s: float, seed: int, profile: str, operating_point: str, out: Path
) -> None:
    """Measure the findings of the default pair on simulated inspections."""
    with tempfile.TemporaryDirectory(prefix="inspection-findings-") as name:
        if videos is None:
            videos = Path(name) / "videos"
            config = InspectionsConfig(
                count=count, duration_s=duration_s, seed=seed, profile=profile, codec="h264", bitrate_kbps=2000
            )
            simulate_inspections(config, videos, workers=os.cpu_count() or 1)
        pair = find_pair(models_root())
        found = find_videos([videos])
        settings = VideoSettings(operating_point=operating_point)
        results = score_videos(found, Path(name) / "scored", Scorer(pair, device="cpu"), settings)
        checks = [
            check_findings(result.folder / "findings.json", video.with_suffix(".truth.json"), tolerance_s=TOLERANCE_S)
            for video, result in zip(found, results, strict=True)
        ]
    print_checks([video.name for video in found], checks)
    summary = summarise(checks)
    click.echo(", ".join(f"{key} {value:.3g}" for key, value in summary.items()))
    about = {"pair": pair.manifest.name, "pair_version": pair.manifest.version, "tolerance_s": TOLERANCE_S}
    record = {"summary": summary, "inspections": [asdict(check) for check in checks], **about}
    write_json_atomic(
        out, record | provenance(shlex.join(["python", "tests/benchmarks/inspection_findings.py", *sys.argv[1:]]))
    )


if __name__ == "__main__":
    main()
