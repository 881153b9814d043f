"""The batch scorer over a Ray cluster: a task is a video, scored by the function that a local run uses.

All machines must see the videos and OUT under the same paths; see `serving.inspections.ray_workers` for what else.
Workers lock what they score as every other process does, so that a cluster may share OUT with processes beside it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serving.errors import ConfigError
from serving.file_lock import locked
from serving.inspections.ray_workers import PairOnCluster, Session, Task, opened, run_tasks
from serving.inspections.video_result import VideoResult
from serving.inspections.video_scoring import Footage, score_or_fail, scoring_key
from serving.inspections.video_settings import HANG_S, VideoSettings
from serving.inspections.videos import LOCKS, output_folders, write_batch
from serving.ray_cluster import Cluster


@dataclass(frozen=True, kw_only=True)
class VideoTask(Task):
    """A video that all machines see."""

    video: Footage

    @property
    def footage(self) -> Footage:
        return self.video


def score_videos_on_ray(
    videos: Sequence[Path],
    out: Path,
    pair: PairOnCluster,
    settings: VideoSettings,
    *,
    cluster: Cluster,
    hang_s: float = HANG_S,
    on_done: Callable[[VideoResult], None] = lambda result: None,
) -> list[VideoResult]:
    """`serving.inspections.videos.score_videos`, as many videos at once as the cluster has room for.

    Raises:
        ConfigError: Ray is not installed, there is no cluster at the address, this machine has no room for a video,
            or a worker sees another pair, other releases or no OUT.
    """
    out = out.absolute()
    key = scoring_key(pair, settings)
    session = Session.of(pair, cluster, settings, hang_s)
    return write_batch(out, key, _score_there(videos, out, session, key, cluster), on_done)


def _score_there(
    videos: Sequence[Path], out: Path, session: Session, key: Mapping[str, Any], cluster: Cluster
) -> Iterator[tuple[int, VideoResult]]:
    make_locks(out)
    tasks = {
        place: VideoTask(video=_seen_by_all(video), folder=folder, session=session, key=key)
        for place, (video, folder) in enumerate(zip(videos, output_folders(videos, out), strict=True))
    }
    yield from run_tasks(cluster, score_video_task, tasks)


def _seen_by_all(video: Path) -> Footage:
    return replace(Footage.of(video), path=video.absolute())


def score_video_task(task: VideoTask) -> VideoResult | None:
    """Score one video, in a worker; None where another process has it."""
    with held_in_worker(task.folder, wait=task.wait) as mine:
        return score_or_fail(task.video, task.folder, opened(task)) if mine else None


def make_locks(out: Path) -> None:
    """By this, workers know that they see OUT."""
    (out / LOCKS).mkdir(parents=True, exist_ok=True)


@contextmanager
def held_in_worker(folder: Path, *, wait: bool) -> Iterator[bool]:
    """A video's folder, held against all other processes; whether it is.

    Raises `ConfigError` if this machine does not see OUT, or cannot write there.
    """
    locks = folder.parent / LOCKS
    if not locks.is_dir():
        raise ConfigError(
            f"{socket.gethostname()} does not see {locks.parent}: OUT must be a folder that all machines of the "
            "cluster share, under the same path"
        )
    try:
        with locked(locks / folder.name, wait=wait) as mine:
            yield mine
    except OSError as error:
        raise ConfigError(f"cannot write to {locks.parent}: {error.strerror or error}") from error
