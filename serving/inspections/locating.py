"""Where the frames of a video were taken: by the file beside it, by the counter on the picture, or not known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from serving.durable import sha256_file
from serving.errors import VideoError
from serving.inspections.distance import NOWHERE, Place
from serving.inspections.osd import CounterReader
from serving.inspections.sidecar import place_between, read_sidecar, sidecar_of
from serving.inspections.text_reader import is_installed, reader_name, text_reader
from serving.inspections.video import Sample
from serving.inspections.video_settings import DistanceFrom


class Locator(Protocol):
    """Sees every sampled frame of one video, in order, and then says where each was taken."""

    @property
    def origin(self) -> dict[str, Any]:
        """What distances come from, so that a change of it is known."""
        ...

    def see(self, sample: Sample) -> None: ...

    def decided(self) -> list[Place]:
        """Where the frames were taken that it has made up its mind about since it was asked last, in order.

        That is for choosing which of them to score: `places` may know better.
        """
        ...

    def finish(self) -> None:
        """No more frames come; afterwards it has decided about all."""
        ...

    def places(self, times_s: Sequence[float]) -> list[Place]: ...


def locator_for(video: Path, wanted: DistanceFrom) -> Locator:
    """By what the frames of a video are located.

    `auto` takes the file beside it, else the counter if text can be read here. Raises `VideoError` if the file is
    broken, or is wanted and not there, and `ConfigError` if text is to be read and cannot be.
    """
    sidecar = sidecar_of(video)
    if wanted == "sidecar" or (wanted == "auto" and sidecar.exists()):
        return _BySidecar(sidecar)
    if wanted == "osd" or (wanted == "auto" and is_installed()):
        return _ByCounter()
    return _Nowhere()


class _BySidecar:
    def __init__(self, path: Path) -> None:
        self._rows = read_sidecar(path)
        try:
            self.origin: dict[str, Any] = {"from": "sidecar", "file": path.name, "sha256": sha256_file(path)}
        except OSError as error:
            raise VideoError(f"{path} cannot be read: {error.strerror or error}") from error
        self._undecided: list[Place] = []

    def see(self, sample: Sample) -> None:
        self._undecided.append(place_between(self._rows, sample.pts_s))

    def decided(self) -> list[Place]:
        decided, self._undecided = self._undecided, []
        return decided

    def finish(self) -> None:
        """Nothing to do: the file says all."""

    def places(self, times_s: Sequence[float]) -> list[Place]:
        return [place_between(self._rows, time_s) for time_s in times_s]


class _ByCounter:
    def __init__(self) -> None:
        self.origin: dict[str, Any] = {"from": "osd", "reader": reader_name()}
        self._counter: CounterReader | None = None

    def see(self, sample: Sample) -> None:
        if self._counter is None:  # not before it is needed: videos that are done need none
            self._counter = CounterReader(text_reader())
        self._counter.see(sample.pts_s, sample.picture.to_gray())

    def decided(self) -> list[Place]:
        return [] if self._counter is None else self._counter.decided()

    def finish(self) -> None:
        if self._counter is not None:
            self._counter.finish()

    def places(self, times_s: Sequence[float]) -> list[Place]:
        return [] if self._counter is None else self._counter.places(times_s)


class _Nowhere:
    def __init__(self) -> None:
        self.origin: dict[str, Any] = {"from": "none"}
        self._n_undecided = 0

    def see(self, sample: Sample) -> None:
        self._n_undecided += 1

    def decided(self) -> list[Place]:
        decided, self._n_undecided = [NOWHERE] * self._n_undecided, 0
        return decided

    def finish(self) -> None:
        """Nothing to do: no distance is wanted, or none can be had."""

    def places(self, times_s: Sequence[float]) -> list[Place]:
        return [NOWHERE] * len(times_s)
