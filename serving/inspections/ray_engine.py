"""The batch scorer over a Ray cluster: a task is a video, scored by the function that a local run uses.

All machines must see the videos, the pair and OUT under the same paths, and have the same releases installed: outputs
are then those of a local run, byte for byte. Workers lock what they score as every other process does, so that a
cluster may share OUT with processes beside it. The video of a worker that dies is begun anew by another one, up to
`serving.ray_cluster.RETRIES` times, and then counts as failed.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from serving.devices import parse_device
from serving.errors import ConfigError
from serving.file_lock import locked
from serving.inspections.video_result import VideoResult
from serving.inspections.video_scoring import Batch, Footage, failure, score_or_fail, scoring_key
from serving.inspections.video_settings import HANG_S, VideoSettings
from serving.inspections.videos import LOCKS, output_folders, write_batch
from serving.pairs.golden import verify_golden
from serving.pairs.manifest import Manifest
from serving.pairs.pair import Pair, load_pair
from serving.pairs.versions import versions
from serving.ray_cluster import Calls, Cluster, WorkerLostError, connected
from serving.scorer import Scorer, default_variant

# Tasks handed to Ray at a time: more than a cluster has cores, and not ten thousand to look through for each result.
_MOST_UNDER_WAY = 1000


@dataclass(frozen=True, kw_only=True)
class PairOnCluster:
    """What workers score with, as far as it is known without opening a session: a `ScorerIdentity`."""

    folder: Path
    manifest: Manifest
    manifest_sha256: str
    variant: str
    device: str

    @classmethod
    def of(cls, pair: Pair, cluster: Cluster, variant: str | None) -> PairOnCluster:
        return cls(
            folder=pair.path.resolve(),
            manifest=pair.manifest,
            manifest_sha256=pair.manifest_sha256,
            variant=variant or default_variant(pair.manifest, parse_device(cluster.device)),
            device=cluster.device,
        )


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a worker opens, once for all its videos; `installed` are the releases, by name, that it must have."""

    folder: Path
    variant: str
    device: str
    threads: int
    settings: VideoSettings
    hang_s: float
    installed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker must know of one video; with `wait` until no other process has it."""

    video: Footage
    folder: Path
    session: Session
    key: Mapping[str, Any]
    wait: bool = False


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
    session = Session(
        folder=pair.folder,
        variant=pair.variant,
        device=pair.device,
        threads=cluster.cpus,
        settings=settings,
        hang_s=hang_s,
        installed=tuple(versions().items()),
    )
    return write_batch(out, key, _score_there(videos, out, session, key, cluster), on_done)


def _score_there(
    videos: Sequence[Path], out: Path, session: Session, key: Mapping[str, Any], cluster: Cluster
) -> Iterator[tuple[int, VideoResult]]:
    (out / LOCKS).mkdir(parents=True, exist_ok=True)
    tasks = {
        place: Task(video=_seen_by_all(video), folder=folder, session=session, key=key)
        for place, (video, folder) in enumerate(zip(videos, output_folders(videos, out), strict=True))
    }
    with connected(cluster) as ray:
        calls = Calls(ray, cluster, score_task)
        # What another process works on comes last, when there is nothing else to do; by then it is likely done.
        held = yield from _round(calls, tasks)
        yield from _round(calls, {place: replace(task, wait=True) for place, task in held.items()})


def _seen_by_all(video: Path) -> Footage:
    return replace(Footage.of(video), path=video.absolute())


def _round(
    calls: Calls[Task, VideoResult | None], tasks: Mapping[int, Task]
) -> Generator[tuple[int, VideoResult], None, dict[int, Task]]:
    """Results of the tasks as they end, each with its place; returns those that another process has."""
    held: dict[int, Task] = {}
    ahead = iter(tasks.items())
    while True:
        for place, task in islice(ahead, _MOST_UNDER_WAY - len(calls)):
            calls.add(place, task)
        if not calls:
            return held
        place, ended = calls.next_ended()
        if ended is None:
            held[place] = tasks[place]
        else:
            yield place, _result(ended, tasks[place])


def _result(ended: VideoResult | Exception, task: Task) -> VideoResult:
    """What became of a task; what stops a local run, as a full disk does, is raised."""
    if isinstance(ended, WorkerLostError):
        return failure(task.video, task.folder, f"{task.video.given}: {ended}")
    if isinstance(ended, ImportError):
        raise ConfigError(
            f"a worker of the cluster cannot import what scores videos ({ended}): install this release of "
            "'pipeprobe[serve]' on all its machines"
        ) from ended
    if isinstance(ended, Exception):
        raise ended
    return ended


def score_task(task: Task) -> VideoResult | None:
    """Score one video, in a worker; None where another process has it."""
    locks = task.folder.parent / LOCKS
    if not locks.is_dir():
        raise ConfigError(
            f"{socket.gethostname()} does not see {locks.parent}: OUT must be a folder that all machines of the "
            "cluster share, under the same path"
        )
    batch = _opened(task.session)
    if batch.key != task.key:
        raise ConfigError(
            f"{socket.gethostname()} has another pair in {task.session.folder} than the machine that started this: all "
            "must see the same files"
        )
    try:
        with locked(locks / task.folder.name, wait=task.wait) as mine:
            return score_or_fail(task.video, task.folder, batch) if mine else None
    except OSError as error:
        raise ConfigError(f"cannot write to {locks.parent}: {error.strerror or error}") from error


@lru_cache(maxsize=1)
def _opened(session: Session) -> Batch:
    """Once for each worker."""
    here, there = versions(), dict(session.installed)
    if here != there:
        differing = sorted({name for name, _ in here.items() ^ there.items()})
        named = ", ".join(f"{name} {here.get(name, 'none')}, not {there.get(name, 'none')}" for name in differing)
        raise ConfigError(
            f"{socket.gethostname()} has {named}: outputs would differ, so install the same releases on all machines"
        )
    scorer = Scorer(load_pair(session.folder), device=session.device, variant=session.variant, threads=session.threads)
    verify_golden(scorer)
    return Batch.of(scorer, session.settings, session.hang_s, lambda *_: None, lambda *_: None)
