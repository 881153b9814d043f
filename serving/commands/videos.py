"""`pipeprobe videos`: the findings of many inspections."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from serving.formats.observation import clock_time
from serving.videos import VideoResult


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where results go.")
@click.option("--every", "every_s", default=0.5, show_default=True, help="Score a frame every so many seconds.")
@click.option("--pair", "pair_name", help="Pair to score with.  [default: the one that models/index.json names]")
@click.option("--models", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of the pairs.")
@click.option("--operating-point", help="Named threshold: balanced, recall_95, recall_99.  [default: the pair's own]")
@click.option("--min-duration", "min_duration_s", default=1.0, show_default=True, help="Shortest finding, seconds.")
@click.option("--join-gap", "join_gap_s", default=1.0, show_default=True, help="Findings this close become one.")
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Look into folders of folders.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N; no silent fall-back.")
@click.option("--variant", type=click.Choice(["fp32", "fp16", "int8"]), help="[default: the fastest for the device]")
def command(
    paths: tuple[Path, ...],
    out: Path,
    every_s: float,
    pair_name: str | None,
    models: Path | None,
    operating_point: str | None,
    min_duration_s: float,
    join_gap_s: float,
    recursive: bool,
    device: str,
    variant: str | None,
) -> None:
    """Score inspection videos and write the findings of each to OUT.

    PATHS are video files or folders of them. A video that cannot be read is reported and the others go on; a video
    that is done is not scored again. Exits with 0 if all went well, 1 if a video failed, 2 on wrong usage.

    \b
    Example:
      pipeprobe videos inspections/ --out findings/
      pipeprobe videos run-17.mpg --out findings/ --every 0.2 --operating-point recall_95
    """
    from serving.pair import find_pair, models_root
    from serving.progress import track_progress
    from serving.scorer import Scorer
    from serving.videos import VideoSettings, find_videos, score_videos

    settings = VideoSettings(
        every_s=every_s, operating_point=operating_point, min_duration_s=min_duration_s, join_gap_s=join_gap_s
    )
    videos = find_videos(paths, recursive=recursive)
    scorer = Scorer(find_pair(models or models_root(), pair_name), device=device, variant=variant)
    with track_progress("videos", total=len(videos), unit="videos") as advance:
        results = score_videos(
            videos,
            out,
            scorer,
            settings,
            on_sample=lambda video, time_s: advance(0, note=f"{video.name} {clock_time(time_s)}"),
            on_done=lambda result: advance(1),
        )
    _print_results(results)
    click.echo(f"written to {out}/")
    if any(result.status == "failed" for result in results):
        raise SystemExit(1)


def _print_results(results: list[VideoResult]) -> None:
    table = Table()
    table.add_column("video", overflow="fold")
    table.add_column("status")
    for heading in ("findings", "peak score", "length", "frames", "corrupt", "seconds"):
        table.add_column(heading, justify="right")
    for result in results:
        if result.status == "failed":
            table.add_row(Path(result.video).name, "[red]failed[/]", *[""] * 6)
            continue
        table.add_row(
            Path(result.video).name,
            result.status,
            str(result.findings),
            f"{result.peak_score:.3f}",
            clock_time(result.duration_s or 0),
            str(result.frames_sampled),
            str(result.frames_corrupt),
            f"{result.seconds_taken:.1f}",
        )
    console = Console()
    console.print(table)
    for result in results:
        if result.status == "failed":
            console.print(f"[red]{result.reason}[/]")
