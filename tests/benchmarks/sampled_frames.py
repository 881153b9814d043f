"""What does it save not to score every sampled frame, and what does it cost in findings?

    python tests/benchmarks/sampled_frames.py --out sampled.json

Simulates inspections, in which the crawler stops and its camera looks around (or takes those that are in --videos), and
scores them with the default pair: every sampled frame; none that shows what the last scored one did; and by the metre,
with the counter on the picture. Prints for each way how many frames were scored, how many of the stills were taken
elsewhere than the frame whose score they have, how far apart the scored ones came to lie, and the events found and the
false findings.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from serving.durable import write_json_atomic
from serving.formats.frames_parquet import SCORED, STILL, Frames, read_frames
from serving.inspections.truth_check import check_findings
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import find_videos, score_videos
from serving.pairs.pair import find_pair, models_root
from serving.scorer import Scorer
from training.provenance import provenance
from training.simulator.inspections import InspectionsConfig, simulate_inspections

TOLERANCE_S = 1.0
# Metres that a camera may move by and still stand: the last digit of a counter.
STANDS_WITHIN_M = 0.01


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One inspection, sampled one way; `moved` are stills taken elsewhere than the frame whose score they have.

    `longest_gap_m` is the true one, metres, between neighbours that were scored.
    """

    way: str
    video: str
    sampled: int
    scored: int
    still: int
    between: int
    moved: int
    longest_gap_m: float
    events: int
    found: int
    false: int


def ways(every_m: float) -> dict[str, dict[str, Any]]:
    """Settings by the name of the way."""
    return {
        "every frame": {"repeat_stills": True, "distance": "none"},
        "stills once": {"distance": "none"},
        f"every {every_m:g} m": {"every_m": every_m},
    }


def true_places(frames: Frames, truth: Path) -> NDArray[np.float64]:
    """Metres at which each frame was taken, [N]."""
    track = np.array(json.loads(truth.read_text(encoding="utf-8"))["track"])
    return np.interp(frames.pts_s, track[:, 0], track[:, 1])


def count_moved(sources: Iterable[str], places_m: NDArray[np.float64]) -> int:
    """Stills taken elsewhere than the scored frame before them."""
    moved = last = 0
    for i, source in enumerate(sources):
        last = i if source == SCORED else last
        moved += bool(source == STILL and abs(places_m[i] - places_m[last]) > STANDS_WITHIN_M)
    return moved


def measure(video: Path, scorer: Scorer, out: Path, way: str, settings: VideoSettings) -> Outcome:
    """Score one inspection one way and compare it with its truth."""
    truth = video.with_suffix(".truth.json")
    (result,) = score_videos([video], out / way, scorer, settings)
    frames = read_frames(result.folder / "frames.parquet")
    places_m = true_places(frames, truth)
    check = check_findings(result.folder / "findings.json", truth, tolerance_s=TOLERANCE_S)
    return Outcome(
        way=way,
        video=video.name,
        sampled=result.frames_sampled,
        scored=result.frames_scored,
        still=result.frames_still,
        between=result.frames_between,
        moved=count_moved(frames.score_source, places_m),
        longest_gap_m=round(float(np.abs(np.diff(places_m[np.array(frames.score_source) == SCORED])).max()), 3),
        events=len(check.events),
        found=len(check.matching.found),
        false=len(check.matching.false_findings),
    )


def print_ways(outcomes: list[Outcome]) -> None:
    """A row a way, over all inspections."""
    table = Table()
    table.add_column("scored are", no_wrap=True)
    for heading in ("sampled", "scored", "still", "moved", "between", "gap, m", "events", "found", "false"):
        table.add_column(heading, justify="right", no_wrap=True)
    for way in dict.fromkeys(each.way for each in outcomes):
        some = [each for each in outcomes if each.way == way]
        counts = ("sampled", "scored", "still", "moved", "between")
        sums = [str(sum(getattr(each, name) for each in some)) for name in counts]
        found = [str(sum(getattr(each, name) for each in some)) for name in ("events", "found", "false")]
        table.add_row(way, *sums, f"{max(each.longest_gap_m for each in some):.2f}", *found)
    Console(soft_wrap=True).print(table)


@click.command()
@click.option("--videos", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Inspections to take.")
@click.option("--count", default=6, show_default=True, help="Inspections to simulate.")
@click.option("--duration-s", default=60.0, show_default=True)
@click.option("--seed", default=4100, show_default=True)
@click.option("--codec", default="mpeg2", show_default=True, type=click.Choice(["mpeg2", "h264"]))
@click.option("--operating-point", default="balanced", show_default=True)
@click.option("--every-m", default=0.25, show_default=True)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="JSON file to write.")
def main(
    videos: Path | None,
    count: int,
    duration_s: float,
    seed: int,
    codec: str,
    operating_point: str,
    every_m: float,
    out: Path,
) -> None:
    """Measure what is saved by scoring fewer frames than are sampled, and what it costs."""
    with tempfile.TemporaryDirectory(prefix="sampled-frames-") as name:
        if videos is None:
            videos = Path(name) / "videos"
            config = InspectionsConfig(count=count, duration_s=duration_s, seed=seed, codec=codec)
            simulate_inspections(config, videos, workers=os.cpu_count() or 1)
        scorer = Scorer(find_pair(models_root()), device="cpu")
        outcomes = [
            measure(
                video,
                scorer,
                Path(name) / "scored",
                way,
                VideoSettings(operating_point=operating_point, **settings),
            )
            for way, settings in ways(every_m).items()
            for video in find_videos([videos])
        ]
    print_ways(outcomes)
    record = {"outcomes": [asdict(each) for each in outcomes], "tolerance_s": TOLERANCE_S, "point": operating_point}
    write_json_atomic(
        out, record | provenance(shlex.join(["python", "tests/benchmarks/sampled_frames.py", *sys.argv[1:]]))
    )


if __name__ == "__main__":
    main()
