"""What workers of a Ray cluster share, whatever the videos are: the session, and what becomes of tasks that end.

Machines must see the pair under the same path and have the same releases installed: outputs are then those of a local
run, byte for byte. The video of a worker that dies is begun anew by another one, up to `serving.ray_cluster.RETRIES`
times, and then counts as failed.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from serving.devices import parse_device
from serving.errors import ConfigError
from serving.inspections.video_result import VideoResult
from serving.inspections.video_scoring import Batch, Footage, failure
from serving.inspections.video_settings import VideoSettings
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

    @classmethod
    def of(cls, pair: PairOnCluster, cluster: Cluster, settings: VideoSettings, hang_s: float) -> Session:
        return cls(
            folder=pair.folder,
            variant=pair.variant,
            device=pair.device,
            threads=cluster.cpus,
            settings=settings,
            hang_s=hang_s,
            installed=tuple(versions().items()),
        )


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What a worker must know, whatever the video, with the folder of its results; `wait` until no other has it."""

    session: Session
    key: Mapping[str, Any]
    folder: Path
    wait: bool = False

    @property
    @abstractmethod
    def footage(self) -> Footage:
        """The video where it lies."""


T = TypeVar("T", bound=Task)
R = TypeVar("R")


def run_tasks(
    cluster: Cluster, function: Callable[[T], R | None], tasks: Mapping[int, T]
) -> Iterator[tuple[int, R | VideoResult]]:
    """What `function` makes of the tasks in workers, as they end, each with its place; a failure where workers died.

    Raises what stops a local run, as a full disk does. Where `function` returns None, another process has the video:
    it comes last, when there is nothing else to do; by then it is likely done.
    """
    if not tasks:
        return
    with connected(cluster) as ray:
        calls = Calls(ray, cluster, function)
        held = yield from _round(calls, tasks)
        yield from _round(calls, {place: replace(task, wait=True) for place, task in held.items()})


def _round(
    calls: Calls[T, R | None], tasks: Mapping[int, T]
) -> Generator[tuple[int, R | VideoResult], None, dict[int, T]]:
    held: dict[int, T] = {}
    ahead = iter(tasks.items())
    while True:
        for place, task in islice(ahead, _MOST_UNDER_WAY - len(calls)):
            calls.add(place, task)
        if not calls:
            return held
        place, ended = calls.next_ended()
        if ended is None:
            held[place] = tasks[place]
        elif isinstance(ended, WorkerLostError):
            task = tasks[place]
            yield place, failure(task.footage, task.folder, f"{task.footage.given}: {ended}")
        elif isinstance(ended, ImportError):
            raise ConfigError(
                f"a worker of the cluster cannot import what scores videos ({ended}): install this release of "
                "'pipeprobe[serve]' on all its machines"
            ) from ended
        elif isinstance(ended, Exception):
            raise ended
        else:
            yield place, ended


def opened(task: Task) -> Batch:
    """What a worker scores a task's video with.

    Raises `ConfigError` if it has other releases or another pair than the machine that started the run.
    """
    batch = _opened(task.session)
    if batch.key != task.key:
        raise ConfigError(
            f"{socket.gethostname()} has another pair in {task.session.folder} than the machine that started this: all "
            "must see the same files"
        )
    return batch


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
