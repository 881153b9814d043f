"""How right, how often and at what cost is the distance that is read off the picture?

    python tests/benchmarks/osd_distance.py --out osd.json

Simulates an inspection in each style of display, and one without, with stretches in which the display cannot be read
(or takes the inspections that are in --videos), scores them with the default pair without distances and with those off
the picture, and compares every frame's distance with the truth. Distances that were interpolated count like those that
were read. The cost is the processor time that scoring a video takes more, as a share of what it takes without; the
decoder's process is counted in both.
"""

from __future__ import annotations

import json
import resource
import shlex
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from serving.durable import write_json_atomic
from serving.formats.frames_parquet import read_frames
from serving.inspections.text_reader import reader_name, text_reader
from serving.inspections.video_settings import DistanceFrom, VideoSettings
from serving.inspections.videos import find_videos, score_videos
from serving.pairs.pair import find_pair, models_root
from serving.scorer import Scorer
from training.provenance import provenance
from training.simulator.inspections import InspectionsConfig, simulate_inspections
from training.simulator.osd import STYLES

WITHIN_M = 0.1
GOALS = {"within": 0.98, "confident": 0.90, "confident_without_counter": 0.0, "cost": 0.15}


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """One inspection: frames, those on which the display can be read, and what was said of them.

    `confident` counts frames with a distance, `confident_legible` those of them on which the display can be read, and
    `within` those with a distance no more than WITHIN_M off. Seconds are the processor's.
    """

    video: str
    display: str | None
    duration_s: float
    frames: int
    legible: int
    confident: int
    confident_legible: int
    within: int
    largest_error_m: float
    plain_s: float
    located_s: float


def simulate(folder: Path, *, duration_s: float, seed: int, illegible: float) -> None:
    """An inspection a style of display, and one without."""
    for number, style in enumerate((*STYLES, "none")):
        config = InspectionsConfig(count=1, duration_s=duration_s, seed=seed + number, style=style, illegible=illegible)
        simulate_inspections(config, folder / style)


def measure(video: Path, scorer: Scorer, out: Path, *, repeats: int) -> Inspection:
    """Score one inspection both ways, the less disturbed of `repeats` runs each, and compare with its truth."""
    seconds: dict[DistanceFrom, float] = {"none": np.inf, "osd": np.inf}
    for turn in range(repeats):
        for distance in seconds:
            started_s = _processor_s()
            (result,) = score_videos(
                [video], out / f"{distance}-{turn}", scorer, VideoSettings(distance=distance, repeat_stills=True)
            )
            seconds[distance] = min(seconds[distance], _processor_s() - started_s)
    truth = json.loads(video.with_suffix(".truth.json").read_text(encoding="utf-8"))
    frames = read_frames(result.folder / "frames.parquet")
    track = np.array(truth["track"])
    times_s = np.array(frames.pts_s)
    errors = np.abs(np.array(frames.distance_m, np.float64) - np.interp(times_s, track[:, 0], track[:, 1]))
    legible = np.full(len(times_s), truth["display"] is not None)
    for start_s, end_s in truth["illegible"]:
        legible &= (times_s < start_s) | (times_s >= end_s)
    known = np.isfinite(errors)
    return Inspection(
        video=video.name,
        display=truth["display"],
        duration_s=truth["duration_s"],
        frames=len(times_s),
        legible=int(legible.sum()),
        confident=int(known.sum()),
        confident_legible=int((known & legible).sum()),
        within=int((errors[known] <= WITHIN_M).sum()),
        largest_error_m=round(float(errors[known].max(initial=0.0)), 3),
        plain_s=round(seconds["none"], 3),
        located_s=round(seconds["osd"], 3),
    )


def _processor_s() -> float:
    """Of this process, and of those that it started and that have ended, as the decoder's does with its video."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def summarise(inspections: list[Inspection]) -> dict[str, float]:
    """What the goals are set for, over all inspections together."""
    shown = [each for each in inspections if each.display is not None]
    plain_s = sum(each.plain_s for each in inspections)
    return {
        "within": sum(each.within for each in shown) / max(1, sum(each.confident for each in shown)),
        "confident": sum(each.confident_legible for each in shown) / max(1, sum(each.legible for each in shown)),
        "confident_without_counter": float(sum(each.confident for each in inspections if each.display is None)),
        "cost": sum(each.located_s for each in inspections) / plain_s - 1,
        "cost_where_shown": sum(each.located_s for each in shown) / max(1e-9, sum(each.plain_s for each in shown)) - 1,
    }


def print_inspections(inspections: list[Inspection]) -> None:
    """A row an inspection."""
    table = Table()
    for heading in ("display", "frames", "legible", "confident", "within 0.1 m", "largest error", "cost"):
        table.add_column(heading, justify="left" if heading == "display" else "right")
    for each in inspections:
        table.add_row(
            each.display or "none",
            str(each.frames),
            str(each.legible),
            str(each.confident),
            str(each.within),
            f"{each.largest_error_m:.3f} m",
            f"{100 * (each.located_s / each.plain_s - 1):.0f} %",
        )
    Console().print(table)


def met(summary: dict[str, float]) -> dict[str, bool]:
    """Which goals are met: at least so much of what is right, at most so much of what is not or costs."""
    at_least = ("within", "confident")
    return {
        name: (summary[name] >= goal) if name in at_least else (summary[name] <= goal) for name, goal in GOALS.items()
    }


@click.command()
@click.option("--videos", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Inspections to take.")
@click.option("--duration-s", default=150.0, show_default=True, help="Of each that is simulated.")
@click.option("--illegible", default=0.1, show_default=True, help="Share of the time that displays cannot be read.")
@click.option("--seed", default=51, show_default=True)
@click.option("--repeats", default=2, show_default=True, help="Runs each way, of which the quicker counts.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="JSON file to write.")
def main(videos: Path | None, duration_s: float, illegible: float, seed: int, repeats: int, out: Path) -> None:
    """Measure distances off the picture on simulated inspections."""
    with tempfile.TemporaryDirectory(prefix="osd-distance-") as name:
        if videos is None:
            videos = Path(name) / "videos"
            simulate(videos, duration_s=duration_s, seed=seed, illegible=illegible)
        pair = find_pair(models_root())
        scorer = Scorer(pair, device="cpu")
        text_reader().read(np.zeros((40, 100), np.uint8))  # loaded and warm, as it is from the second video on
        found = find_videos([videos])
        inspections = [
            measure(video, scorer, Path(name) / str(number), repeats=repeats) for number, video in enumerate(found)
        ]
    summary = summarise(inspections)
    print_inspections(inspections)
    goals_met = met(summary)
    for key, value in summary.items():
        goal = f", goal {GOALS[key]:g}: {'met' if goals_met[key] else 'missed'}" if key in GOALS else ""
        click.echo(f"{key} {value:.3f}{goal}")
    record: dict[str, Any] = {
        "summary": summary,
        "goals": GOALS,
        "met": goals_met,
        "inspections": [asdict(each) for each in inspections],
        "pair": {"name": pair.name, "version": pair.version, "variant": scorer.variant},
        "reader": reader_name(),
    }
    command = shlex.join(["python", "tests/benchmarks/osd_distance.py", *sys.argv[1:]])
    write_json_atomic(out, record | provenance(command))


if __name__ == "__main__":
    main()
