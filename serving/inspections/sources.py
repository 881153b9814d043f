"""Videos that lie here or behind URLs, brought to this machine's disk one at a time while they are scored.

Beside the one that is scored the next one is fetched, so that never more than two lie in the scratch folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from serving.cloud_files import CloudFolder, Entry, is_url, local_path
from serving.errors import ConfigError, VideoError
from serving.inspections.sidecar import sidecar_of
from serving.inspections.video import VIDEO_SUFFIXES
from serving.inspections.video_scoring import Footage
from serving.inspections.videos import find_videos


@dataclass(frozen=True, kw_only=True)
class Source:
    """A video of a batch, here or in `folder`, where it is called `name`.

    Attributes:
        given: as results and messages name it.
        address: where it lies for good.
        state: of the objects, for the video and the distances beside it, by name; None for a file of this machine,
            whose content says whether it is the same.
    """

    given: str
    address: str
    path: Path | None = None
    folder: CloudFolder | None = None
    name: str = ""
    state: tuple[tuple[str, Entry], ...] | None = None

    @classmethod
    def here(cls, path: Path) -> Source:
        return cls(given=str(path), address=str(path.resolve()), path=path)

    @property
    def stem(self) -> str:
        return PurePosixPath(self.given).stem

    @property
    def parts(self) -> tuple[str, ...]:
        """Of the address, without the root or scheme."""
        return Path(self.address.partition("://")[2] or self.address.lstrip("/")).parts

    @property
    def unfetched(self) -> Footage:
        """The video where it lies; of one behind a URL, for what concerns its name alone."""
        return Footage(path=self.path or Path(self.given), given=self.given, address=self.address)

    @property
    def is_marked(self) -> bool:
        """Whether `state` tells one content from another."""
        return self.state is not None and all(entry.mark for _, entry in self.state)

    @property
    def recorded_state(self) -> dict[str, Any] | None:
        """`state` as it is written into records."""
        return None if self.state is None else {name: vars(entry) for name, entry in self.state}


def find_sources(places: Sequence[str], *, recursive: bool = True) -> list[Source]:
    """The videos at paths and URLs, named or in folders, each once, in order.

    Raises `ConfigError` if one does not exist, or if there is no video at all.
    """
    found: dict[str, Source] = {}
    for place in places:
        if is_url(place):
            sources = _behind(place, recursive=recursive)
        else:
            sources = [Source.here(path) for path in find_videos([local_path(place)], recursive=recursive)]
        found |= {source.given: source for source in sources}
    return list(found.values())


def _behind(url: str, *, recursive: bool) -> list[Source]:
    folder = CloudFolder(url)
    entries = folder.entries()
    names = sorted(name for name in entries if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES)
    if not recursive:
        names = [name for name in names if "/" not in name]
    if names:
        return [_source(folder, name, entries) for name in names]
    # The URL may be a video's own.
    parent, _, name = folder.url.rpartition("/")
    beside = CloudFolder(parent)
    entries = beside.entries()
    if name not in entries:
        raise ConfigError(f"no videos in {url} (looked for {', '.join(sorted(VIDEO_SUFFIXES))})")
    return [_source(beside, name, entries)]


def _source(folder: CloudFolder, name: str, entries: dict[str, Entry]) -> Source:
    url = f"{folder.url}/{name}"
    objects = (name, _sidecar(name))
    state = tuple((each, entries[each]) for each in objects if each in entries)
    return Source(given=url, address=url, folder=folder, name=name, state=state)


def _sidecar(name: str) -> str:
    return str(sidecar_of(Path(name)))


class Fetcher:
    """Brings videos into a scratch folder; use it in a `with`."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fetch")
        self._ahead: tuple[Source, Path, Future[None]] | None = None
        self._n_folders = 0

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop_ahead()
        self._thread.shutdown()

    @contextmanager
    def sidecar(self, source: Source) -> Iterator[Footage]:
        """Where a video would lie, with the distances beside it, for as long as the block runs."""
        folder = self._new_folder()
        try:
            yield self._footage(source, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def video(self, source: Source) -> Iterator[Footage]:
        """The video on this machine's disk for as long as the block runs. Raises `VideoError` if it cannot be had."""
        if source.folder is None:
            yield source.unfetched
            return
        if self._ahead is not None and self._ahead[0] == source:
            _, folder, fetched = self._ahead
            self._ahead = None
        else:
            self._drop_ahead()
            folder = self._new_folder()
            fetched = self._thread.submit(self._bring, source, folder)
        try:
            fetched.result()
            yield self._footage(source, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def fetch_ahead(self, source: Source) -> None:
        """Begin with the video that is wanted next."""
        self._drop_ahead()
        if source.folder is not None:
            folder = self._new_folder()
            self._ahead = source, folder, self._thread.submit(self._bring, source, folder)

    def _bring(self, source: Source, folder: Path) -> None:
        assert source.folder is not None
        assert source.state is not None
        to = folder / PurePosixPath(source.name).name
        expected = dict(source.state)[source.name]
        free = shutil.disk_usage(folder).free
        if expected.size > free:
            raise VideoError(
                f"{source.given} has {expected.size:,} bytes and {folder.parent} room for {free:,}: name a folder on a "
                "larger disk with --scratch"
            )
        source.folder.fetch(source.name, to)
        if source.folder.entry(source.name) != expected or to.stat().st_size != expected.size:
            raise VideoError(f"{source.given} has changed since this command began: run it again")

    def _footage(self, source: Source, folder: Path) -> Footage:
        if source.folder is None:
            return source.unfetched
        assert source.state is not None
        path = folder / PurePosixPath(source.name).name
        if _sidecar(source.name) in dict(source.state):
            source.folder.fetch(_sidecar(source.name), sidecar_of(path))
        return Footage(path=path, given=source.given, address=source.address)

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            _, folder, fetched = self._ahead
            self._ahead = None
            if not fetched.cancel():
                fetched.exception()  # it has ended then
            shutil.rmtree(folder, ignore_errors=True)

    def _new_folder(self) -> Path:
        self._n_folders += 1
        folder = self._scratch / f"{self._n_folders}"
        folder.mkdir()
        return folder
