"""Is a video scored as fast as the slower of reading it and scoring its frames? Does memory grow with its length?

    PYTHONPATH=.:tests python tests/benchmarks/video_throughput.py --out video-throughput.json

Simulates an inspection, repeats it to the lengths asked for, and measures three rates of sampled frames a second, one
after the other in each round: the reader alone, the session alone on the frames that it gave, and `score_videos`,
which overlaps the two and writes all deliverables. Then the command `pipeprobe videos` runs on the shortest and on the
longest video, and the memory that it and its children held at most is compared.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from support.process_watch import MIB
from support.video_files import repeat

from serving.durable import write_json_atomic
from serving.inspections.video import VideoReader
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import find_videos, score_videos
from serving.pairs.pair import find_pair, models_root
from serving.scorer import Scorer
from training.provenance import provenance
from training.simulator.inspections import InspectionsConfig, simulate_inspections

AT_LEAST = 0.9
ALLOWED_GROWTH = 1.10
BATCH = 16
WATCH_S = 0.25
# The command, which prints at its end what `most_resident` says of it.
THEN_TELL = """
import atexit
from pathlib import Path
from serving.cli import main

def tell():
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), flush=True)

atexit.register(tell)
main()
"""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Sampled frames a second, in one round."""

    read: float
    session: float
    videos: float

    @property
    def ratio(self) -> float:
        """Of the slower of the two bounds, how much the whole reaches."""
        return self.videos / min(self.read, self.session)


def measure_round(video: Path, scorer: Scorer, out: Path, every_s: float) -> Rates:
    """The three rates on one video."""
    size = scorer.pair.manifest.image_size
    frames: list[np.ndarray] = []
    read_s = timed(lambda: frames.extend(s.frame for s in VideoReader(video, every_s=every_s, size=size)))
    batches = [np.stack(frames[start : start + BATCH]) for start in range(0, len(frames), BATCH)]
    session_s = timed(lambda: [scorer.score(batch) for batch in batches])
    settings = VideoSettings(every_s=every_s, distance="none", repeat_stills=True)
    videos_s = timed(lambda: score_videos([video], out, scorer, settings))
    n = len(frames)
    return Rates(read=n / read_s, session=n / session_s, videos=n / videos_s)


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    started_s = time.monotonic()
    work()
    return time.monotonic() - started_s


def peak_memory(video: Path, out: Path, every_s: float) -> float:
    """Resident MiB of `pipeprobe videos` and its children: the sum of the most that each ever held.

    The kernel keeps the most of each. The command's own is read as it ends, that of its children while they live.
    """
    options = ["videos", str(video), "--out", str(out), "--every", str(every_s), "--distance", "none"]
    children: dict[int, int] = {}
    with (out.parent / f"{out.name}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", THEN_TELL, *options], stdout=subprocess.PIPE, stderr=log)
        parent = psutil.Process(process.pid)
        while process.poll() is None:
            # A child may end between being listed and being asked.
            with suppress(psutil.NoSuchProcess, OSError):
                children |= {child.pid: most_resident(child.pid) for child in parent.children(recursive=True)}
            time.sleep(WATCH_S)
        told = process.communicate()[0].decode()
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, options)
    return (int(told.splitlines()[-1]) + sum(children.values())) / MIB


def most_resident(pid: int) -> int:
    """Bytes that the process held at most until now."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def make_videos(folder: Path, minutes: list[float], seed: int) -> list[Path]:
    """The same simulated minute, as often as makes each of the lengths."""
    config = InspectionsConfig(count=1, duration_s=60, seed=seed, codec="h264", bitrate_kbps=2000)
    simulate_inspections(config, folder)
    (minute,) = find_videos([folder])
    return [repeat(minute, folder / f"{each:g}-minutes.mp4", times=max(1, round(each))) for each in minutes]


@click.command()
@click.option("--minutes", default="5,120", show_default=True, help="Lengths of the shortest and the longest video.")
@click.option("--every", "every_s", default=0.5, show_default=True, help="Seconds between frames.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--seed", default=7000, show_default=True)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="JSON file to write.")
def main(minutes: str, every_s: float, rounds: int, seed: int, out: Path) -> None:
    """Measure and print both."""
    lengths = [float(each) for each in minutes.split(",")]
    scorer = Scorer(find_pair(models_root()))
    with tempfile.TemporaryDirectory(prefix="video-throughput-") as name:
        shortest, *_, longest = make_videos(Path(name), lengths, seed)
        measured = [measure_round(shortest, scorer, Path(name) / f"round-{i}", every_s) for i in range(rounds)]
        peaks = [peak_memory(video, Path(name) / f"memory-{video.stem}", every_s) for video in (shortest, longest)]
    # The middle round: the best would flatter the bounds and the whole in different rounds.
    middle = sorted(measured, key=lambda each: each.ratio)[len(measured) // 2]
    table = Table("", "frames/s", title=f"{lengths[0]:g} minutes, a frame every {every_s:g} s, {scorer.variant} on CPU")
    for what, rate in (("reading alone", middle.read), ("session alone", middle.session), ("both", middle.videos)):
        table.add_row(what, f"{rate:.1f}")
    Console().print(table)
    growth = peaks[1] / peaks[0]
    click.echo(f"both / slower of the two: {middle.ratio:.3f} (bound {AT_LEAST})")
    click.echo(
        f"memory: {peaks[0]:.0f} MiB for {lengths[0]:g} minutes, {peaks[1]:.0f} MiB for {lengths[-1]:g}: "
        f"{growth:.3f} times (bound {ALLOWED_GROWTH})"
    )
    record = {
        **provenance(shlex.join(["python", "tests/benchmarks/video_throughput.py", *sys.argv[1:]])),
        "minutes": lengths,
        "every_s": every_s,
        "rounds": [asdict(each) | {"ratio": each.ratio} for each in measured],
        "ratio": middle.ratio,
        "ratio_bound": AT_LEAST,
        "peak_mib": peaks,
        "growth": growth,
        "growth_bound": ALLOWED_GROWTH,
    }
    write_json_atomic(out, record)


if __name__ == "__main__":
    main()
