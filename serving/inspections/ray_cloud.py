"""The batch scorer over a Ray cluster where videos, results or both lie behind URLs.

Each worker fetches its video into its own machine's scratch folder, scores it there and sends the results, so that
machines need share no disk; if OUT is a folder, they must all see it. The process that was called holds OUT, decides
what is done already, and writes the files of the batch. Credentials are each machine's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from serving.cloud_files import CloudFolder
from serving.inspections.cloud_output import CloudOutput, LocalOutput, Sent, send_video
from serving.inspections.cloud_videos import Results, Todo, score_source, write_sources
from serving.inspections.ray_engine import held_in_worker, make_locks
from serving.inspections.ray_workers import PairOnCluster, Session, Task, opened, run_tasks
from serving.inspections.run_claim import check_held
from serving.inspections.scratch import scratch_folder
from serving.inspections.sources import Fetcher, Source
from serving.inspections.video_result import VideoResult
from serving.inspections.video_scoring import Footage, scoring_key
from serving.inspections.video_settings import HANG_S, VideoSettings
from serving.ray_cluster import Cluster


@dataclass(frozen=True, kw_only=True)
class ToFolder(Task):
    """A video that is here or behind a URL, with results in a folder that all machines see.

    `scratch` is a folder of the worker's machine, None the system's own.
    """

    source: Source
    scratch: Path | None

    @property
    def footage(self) -> Footage:
        return self.source.unfetched


@dataclass(frozen=True, kw_only=True)
class ToUrl(ToFolder):
    """The same with results that go to `folder` below `out`, as long as the run's `claim` is the newest there."""

    out: CloudFolder
    claim: str


def score_sources_on_ray(
    sources: Sequence[Source],
    out: str,
    pair: PairOnCluster,
    settings: VideoSettings,
    *,
    cluster: Cluster,
    scratch: Path | None = None,
    hang_s: float = HANG_S,
    on_done: Callable[[VideoResult], None] = lambda result: None,
) -> list[VideoResult]:
    """`serving.inspections.cloud_videos.score_sources`, as many videos at once as the cluster has room for.

    Args:
        scratch: on every machine, for a video of each of its workers.

    Raises:
        ConfigError: as `score_sources` and `serving.inspections.ray_engine.score_videos_on_ray`.
    """
    key = scoring_key(pair, settings)
    session = Session.of(pair, cluster, settings, hang_s)

    def to_folder(todo: Todo, output: LocalOutput, fetcher: Fetcher) -> Results:
        make_locks(output.root)
        tasks = {
            place: ToFolder(
                session=session, key=key, source=_seen_by_all(source), folder=folder.absolute(), scratch=scratch
            )
            for place, source, folder in todo
        }
        yield from run_tasks(cluster, score_to_folder, tasks)

    def to_url(todo: Todo, output: CloudOutput, fetcher: Fetcher) -> Results:
        tasks = {
            place: ToUrl(
                session=session,
                key=key,
                source=_seen_by_all(source),
                folder=Path(folder.name),
                scratch=scratch,
                out=output.folder,
                claim=output.claim.name,
            )
            for place, source, folder in todo
        }
        all_ended: Iterator[tuple[int, VideoResult | Sent]] = run_tasks(cluster, score_to_url, tasks)
        for place, ended in all_ended:
            yield place, output.sent(ended) if isinstance(ended, Sent) else ended

    return write_sources(sources, out, key, to_folder, to_url, scratch=scratch, on_done=on_done)


def _seen_by_all(source: Source) -> Source:
    return source if source.path is None else replace(source, path=source.path.absolute())


def score_to_folder(task: ToFolder) -> VideoResult | None:
    """Score one video, in a worker; None where another process has it."""
    with held_in_worker(task.folder, wait=task.wait) as mine:
        if not mine:
            return None
        with scratch_folder(task.scratch) as room:
            return _scored(task, task.folder, room)


def score_to_url(task: ToUrl) -> VideoResult | Sent:
    """Score one video and send its results, in a worker; nothing is sent of one that fails."""
    with scratch_folder(task.scratch) as room:
        result = _scored(task, room / "out" / task.folder, room)
        if result.status == "failed":
            return result
        return send_video(task.source, result, task.out, lambda: check_held(task.out, task.claim))


def _scored(task: ToFolder, folder: Path, room: Path) -> VideoResult:
    with Fetcher(room) as fetcher:
        return score_source(task.source, folder, fetcher, opened(task))
