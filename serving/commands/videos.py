"""`pipeprobe videos`: inspection videos to findings, one folder each and a summary."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click
from click.core import ParameterSource
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from serving.cloud_files import is_url, local_path
from serving.commands.duration import Duration
from serving.commands.step import Step, StepType
from serving.errors import ConfigError
from serving.formats.observation import clock_time
from serving.inspections.batch_files import INDEX_FILE
from serving.inspections.cloud_videos import score_sources
from serving.inspections.frame_scorer import FrameScorer, ScorerIdentity
from serving.inspections.ray_cloud import score_sources_on_ray
from serving.inspections.ray_engine import score_videos_on_ray
from serving.inspections.ray_workers import PairOnCluster
from serving.inspections.sources import Source, find_sources
from serving.inspections.text_reader import is_installed, text_reader
from serving.inspections.video import VideoInfo
from serving.inspections.video_result import VideoResult
from serving.inspections.video_settings import DISTANCES_FROM, HANG_S, SHORTEST_STEP_S, DistanceFrom, VideoSettings
from serving.inspections.videos import find_videos, score_videos
from serving.pairs.golden import verify_golden
from serving.pairs.pair import find_pair, models_root
from serving.ray_cluster import cluster_of
from serving.scorer import Scorer

if TYPE_CHECKING:
    from serving.inspections.remote_scorer import RemoteScorer

_DEFAULTS = VideoSettings()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("places", nargs=-1, required=True, metavar="VIDEOS...")
@click.option("--out", required=True, metavar="FOLDER", help="Folder, or URL of one, to write results to.")
@click.option(
    "--every",
    type=StepType(),
    default=f"{_DEFAULTS.every_s:g}s",
    show_default=True,
    metavar="STEP",
    help="Most time between two scored frames, such as 0.5s or 200ms; or most distance along the pipe, such as 0.25m: "
    "where that is not known, frames are scored by time, 2 s for each metre, and at a standstill, 10 s.",
)
@click.option(
    "--repeat-stills",
    is_flag=True,
    help="Score also frames that show what the last scored one does, as where the camera stands still.",
)
@click.option("--all", "all_pictures", is_flag=True, help="Score every picture of the video, in place of --every.")
@click.option(
    "--pair", "pair_name", metavar="NAME[@VERSION]", help="Pair to score with.  [default: models/index.json's]"
)
@click.option(
    "--models",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the pairs.  [default: $PIPEPROBE_MODELS, else models/]",
)
@click.option("--operating-point", metavar="NAME", help="Threshold that opens a finding.  [default: the pair's own]")
@click.option(
    "--min-duration",
    "min_duration_s",
    default=_DEFAULTS.min_duration_s,
    show_default=True,
    metavar="SECONDS",
    help="Shorter findings are dropped.",
)
@click.option(
    "--join-gap",
    "join_gap_s",
    default=_DEFAULTS.join_gap_s,
    show_default=True,
    metavar="SECONDS",
    help="Findings no farther apart become one.",
)
@click.option(
    "--distance",
    type=click.Choice(DISTANCES_FROM),
    default=_DEFAULTS.distance,
    show_default=True,
    help="Where along the pipe: by the counter on the picture (osd), by VIDEO.distance.csv beside it (sidecar), "
    "whichever there is (auto), or not at all.",
)
@click.option(
    "--hang-after",
    "hang_s",
    type=Duration(),
    default=HANG_S,
    show_default=True,
    metavar="TIME",
    help="What reads a video and gives no sign of life for so long is ended; the piece it was at is left out and "
    "reported. More for slow disks: 120, 120s or 2min.",
)
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Look into folders of folders.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:INDEX; used or refused.")
@click.option(
    "--variant",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="Precision.  [default: int8 on a CPU, fp16 on a GPU, where the pair has it, else fp32]",
)
@click.option(
    "--engine",
    default="local",
    show_default=True,
    type=click.Choice(["local", "ray"]),
    help="One video after the other here, or side by side on a Ray cluster.",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="Ray: of a running cluster, such as auto or HOST:6379.  [default: start Ray on this machine]",
)
@click.option(
    "--gpus-per-video",
    type=float,
    metavar="SHARE",
    help="Ray: of a GPU, such as 0.25 for four videos on one.  [default: 1, none with --device cpu]",
)
@click.option(
    "--cpus-per-video", type=click.IntRange(min=1), help="Ray: cores, and CPU threads of the session.  [default: 1]"
)
@click.option(
    "--scratch",
    type=click.Path(file_okay=False, path_type=Path),
    help="URLs: folder for two videos at a time, with Ray one a worker on every machine, and results on their way.  "
    "[default: the system's for temporary files]",
)
@click.option(
    "--server",
    metavar="URL",
    help="Have the frames scored by the service at URL instead of here, with the API key in $PIPEPROBE_API_KEY. It is "
    "waited for up to 5 min; then a video fails alone, and the next call scores it.",
)
@click.pass_context
def command(
    ctx: click.Context,
    places: tuple[str, ...],
    out: str,
    every: Step,
    repeat_stills: bool,
    all_pictures: bool,
    pair_name: str | None,
    models: Path | None,
    operating_point: str | None,
    min_duration_s: float,
    join_gap_s: float,
    distance: DistanceFrom,
    hang_s: float,
    recursive: bool,
    device: str,
    variant: str | None,
    engine: str,
    ray_address: str | None,
    gpus_per_video: float | None,
    cpus_per_video: int | None,
    scratch: Path | None,
    server: str | None,
) -> None:
    """Score inspection videos: files, or folders of them. Writes a folder per video and a summary to OUT.

    Videos, OUT or both may be URLs, such as s3://bucket/folder (pip install 'pipeprobe[cloud]'; credentials as for
    Amazon's own tools, AWS_ENDPOINT_URL names another S3). Videos are fetched one at a time, the next one ahead; what
    is done already is not fetched again. One run at a time writes to a URL.

    A finding opens at a frame whose score reaches the operating point's threshold and closes 0.8 logits below it.
    The videos are only read. A video that is done is not scored again, unless it, the pair or a setting has
    changed, or a piece of it was lost; one that cannot be read is reported and the others go on. The exit code
    is 0 if all were scored completely, 1 if some were not, 2 if nothing could be started.

    With --engine ray, videos are scored side by side on a Ray cluster (pip install 'pipeprobe[cluster]'). Its machines
    must all see the pairs, and the videos and OUT unless they are URLs, under the same paths and have the same
    releases installed; what is written is the same. The video of a worker that dies is begun anew, up to three times.

    \b
    Examples:
      pipeprobe videos inspections/ --out findings/
      pipeprobe videos run-17.mpg --out findings/ --every 200ms --operating-point recall_95
      pipeprobe videos inspections/ --out findings/ --every 0.25m
      pipeprobe videos inspections/ --out findings/ --server http://gpu-box:3000
      pipeprobe videos /mnt/tapes/ --out findings/ --hang-after 5min
      pipeprobe videos s3://bucket/inspections --out s3://bucket/findings
      pipeprobe videos /nfs/inspections --out /nfs/findings --engine ray --ray-address auto --gpus-per-video 0.25
      pipeprobe videos s3://bucket/inspections --out s3://bucket/findings --engine ray --ray-address auto
    """
    if all_pictures and ctx.get_parameter_source("every") is ParameterSource.COMMANDLINE:
        raise ConfigError("--all is every picture and --every a step between two: give one of them")
    if all_pictures:
        every = Step(every_s=SHORTEST_STEP_S)
    settings = VideoSettings(
        every_s=every.every_s,
        every_m=every.every_m,
        repeat_stills=repeat_stills or all_pictures,
        operating_point=operating_point,
        min_duration_s=min_duration_s,
        join_gap_s=join_gap_s,
        distance=distance,
    )
    if distance == "osd":
        text_reader()  # where it is missing, nothing is worth starting
    elif distance == "auto" and not is_installed():
        click.echo("distances are not read off the pictures: that needs pip install 'pipeprobe[osd]'", err=True)
    of_ray = {"--ray-address": ray_address, "--gpus-per-video": gpus_per_video, "--cpus-per-video": cpus_per_video}
    cluster = cluster_of(engine, device, of_ray, task="a video")
    if cluster is not None and server is not None:
        raise ConfigError(
            "frames are scored by the service (--server) or by the cluster (--engine ray): give one of them"
        )
    videos: Sequence[Path] | Sequence[Source]
    run: Callable[..., list[VideoResult]]
    if any(map(is_url, (*places, out))):
        videos = find_sources(places, recursive=recursive)
        run = partial(score_sources if cluster is None else score_sources_on_ray, out=out, scratch=scratch)
    else:
        if scratch is not None:
            raise ConfigError("--scratch is for what is brought from URLs, and none is given: leave it out")
        videos = find_videos([local_path(place) for place in places], recursive=recursive)
        run = partial(score_videos if cluster is None else score_videos_on_ray, out=local_path(out))
    with ExitStack() as stack:
        bars = stack.enter_context(_Bars(len(videos)))
        if cluster is not None:
            pair = PairOnCluster.of(find_pair(models or models_root(), pair_name), cluster, variant)
            scorer: ScorerIdentity = pair
            run = partial(run, pair=pair, cluster=cluster)
        else:
            here = _scorer(ctx, stack, models, pair_name, device, variant, server)
            scorer = here
            run = partial(run, scorer=here, on_start=bars.on_start, on_sample=bars.on_sample)
        results = run(videos, settings=settings, hang_s=hang_s, on_done=bars.on_done)
    point = scorer.manifest.operating_point(operating_point)
    _print_table(
        results,
        f"{scorer.manifest.name} {scorer.manifest.version} ({scorer.variant} on {scorer.device}), "
        f"{point.name}: a finding opens at {point.threshold:.3f}",
    )
    click.echo(f"written to {out}; open {out.rstrip('/')}/{INDEX_FILE}")
    ctx.exit(_report_failures(results))


def _scorer(
    ctx: click.Context,
    stack: ExitStack,
    models: Path | None,
    pair_name: str | None,
    device: str,
    variant: str | None,
    server: str | None,
) -> FrameScorer:
    """What scores for this process: a session of its own, or the service, until the stack is closed."""
    if server is None:
        return _local_scorer(models, pair_name, device, variant)
    _refuse_beside_server(ctx)
    return stack.enter_context(_remote_scorer(server, pair_name, variant))


def _local_scorer(models: Path | None, pair_name: str | None, device: str, variant: str | None) -> Scorer:
    scorer = Scorer(find_pair(models or models_root(), pair_name), device=device, variant=variant)
    verify_golden(scorer)
    return scorer


def _remote_scorer(server: str, pair_name: str | None, variant: str | None) -> RemoteScorer:
    try:
        # httpx is not part of what scores here.
        from serving.inspections.remote_scorer import API_KEY_VARIABLE, RemoteScorer
    except ModuleNotFoundError as error:
        raise ConfigError(f"--server needs {error.name}: pip install 'pipeprobe[client]'") from error
    api_key = os.environ.get(API_KEY_VARIABLE) or None
    return RemoteScorer(server, reference=pair_name, variant=variant, api_key=api_key)


def _refuse_beside_server(ctx: click.Context) -> None:
    for name in ("models", "device"):
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise ConfigError(f"--{name} is the service's to choose where --server is named: leave it out")


class _Bars:
    """Two bars on stderr, where a person looks: videos done, and the way through the current one in frames/s."""

    def __init__(self, n_videos: int) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._all = self._progress.add_task("videos", total=n_videos, note=f"0/{n_videos}")
        self._one = self._progress.add_task("", total=None, note="", visible=False)
        self._n_videos = n_videos
        self._done = 0
        self._frames = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_start(self, video: Path, info: VideoInfo) -> None:
        self._frames = 0
        self._progress.reset(
            self._one, total=info.duration_s, description=escape(video.name), visible=True, note="decoding"
        )

    def on_sample(self, video: Path, time_s: float) -> None:
        self._frames += 1
        elapsed_s = self._progress.tasks[self._one].elapsed or 0.0
        rate = f", {self._frames / elapsed_s:.0f} frames/s" if elapsed_s > 0.5 else ""
        self._progress.update(self._one, completed=time_s, note=f"{clock_time(time_s)}{rate}")

    def on_done(self, result: VideoResult) -> None:
        self._done += 1
        self._progress.update(self._all, completed=self._done, note=f"{self._done}/{self._n_videos}")
        self._progress.update(self._one, visible=False)


def _print_table(results: Sequence[VideoResult], title: str) -> None:
    console = Console(soft_wrap=True)
    table = Table(title=title, title_justify="left")
    any_corrupt = any(each.frames_corrupt for each in results)
    any_lost = any(each.lost for each in results)
    any_gap = any(each.longest_gap_m is not None for each in results)
    table.add_column("video", overflow="fold", min_width=12)
    table.add_column("status")
    headings = ("findings", "peak", "length", "scored", "frames/s")
    for heading in (*headings, *_if(any_gap, "gap"), *_if(any_corrupt, "corrupt")):
        table.add_column(heading, justify="right", no_wrap=True)
    if any_lost:
        table.add_column("lost", overflow="fold")
    for each in results:
        name = escape(Path(each.video).name)  # a name may hold [brackets], which rich takes for its own markup
        if each.status == "failed":
            table.add_row(name, "[magenta]failed[/]")
            continue
        table.add_row(
            name,
            each.status if each.complete else f"[magenta]{each.status}, incomplete[/]",
            f"[red]{each.findings}[/]" if each.findings else "[green]0[/]",
            f"{each.peak_score:.3f}",
            clock_time(each.duration_s or 0.0),
            str(each.frames_scored),
            f"{each.frames_sampled / each.seconds_taken:.0f}" if each.seconds_taken else "",
            *_if(any_gap, "" if each.longest_gap_m is None else f"{each.longest_gap_m:.2f} m"),
            *_if(any_corrupt, str(each.frames_corrupt)),
            *_if(any_lost, f"[magenta]{each.lost_s:.1f} s: {each.lost}[/]" if each.lost else ""),
        )
    console.print(table)


def _if(wanted: bool, text: str) -> list[str]:
    return [text] if wanted else []


def _report_failures(results: Sequence[VideoResult]) -> int:
    """Name on standard error every video that was not scored from start to end; the exit code."""
    for each in results:
        if each.status == "failed":
            click.echo(f"error: {each.reason}", err=True)
        elif not each.complete:
            click.echo(f"warning: {each.video} {each.reason}", err=True)
    failed = sum(each.status == "failed" for each in results)
    if failed:
        click.echo(f"{failed} of {len(results)} videos could not be scored", err=True)
    return 0 if all(each.complete for each in results) else 1
