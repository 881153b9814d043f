"""The pairs of one worker as they are served: one lane for each, found by name and version, one the default.

Lanes come and go while requests run. Whoever uses one says so (`in_use`), and a lane that is taken out of service
ends only when nobody does: it drains. All of it happens on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from serving.batching import Batcher, Prepare
from serving.errors import OperatingPointNotFoundError, PairNotFoundError
from serving.monitoring.telemetry import PairTelemetry
from serving.pairs.manifest import Manifest, OperatingPoint
from serving.scorer import Scorer

# How often a draining lane is looked at; nobody waits for it.
_DRAIN_POLL_S = 0.05


@dataclass(kw_only=True, eq=False)
class Lane:
    """One pair as it is served: session, queue and metrics of its own. `users` counts the requests that hold it."""

    scorer: Scorer
    batcher: Batcher
    telemetry: PairTelemetry
    decode: Prepare
    users: int = field(default=0, init=False)

    @property
    def manifest(self) -> Manifest:
        return self.scorer.pair.manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def folder(self) -> str:
        """The pair's folder under `models/`."""
        return self.scorer.pair.path.name

    def operating_point(self, name: str | None) -> OperatingPoint:
        """The operating point asked for, or the pair's default."""
        points = self.manifest.operating_points
        point = points.get(name or self.manifest.default_operating_point)
        if point is None:
            raise OperatingPointNotFoundError(
                f"pair {self.name} has no operating point {(name or '')[:50]!r}; it has {', '.join(points)}"
            )
        return point

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the lane from ending; to be entered before anything is awaited after it was looked up."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1

    async def drain(self) -> None:
        """Wait until nobody uses the lane, then end it. Requests have a deadline, so this ends."""
        while self.users or self.batcher.frames:
            await asyncio.sleep(_DRAIN_POLL_S)
        await asyncio.to_thread(self.batcher.stop)


class Lanes:
    """All lanes of a worker, by name and version; the first one given is the default."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = {(lane.name, lane.version): lane for lane in lanes}
        self.default = lanes[0]

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def find(self, name: str | None = None, version: str | None = None) -> Lane:
        """The lane asked for; `PairNotFoundError`, listing what is served, if there is none.

        Without a name it is a version of the default pair; without a version the default one of that name, else
        the first.
        """
        wanted = name or self.default.name
        lanes: list[Lane] = [self.default, *self]
        for lane in lanes:
            if lane.name == wanted and version in (None, "", lane.version):
                return lane
        asked = f"version {(version or '')[:50]!r} of pair {wanted[:100]!r}" if version else f"pair {wanted[:100]!r}"
        served = ", ".join(f"{lane.name} {lane.version}" for lane in self)
        raise PairNotFoundError(f"{asked} is not served here; served: {served}")

    def versions(self, name: str) -> list[str]:
        """The versions of a pair that are served."""
        return [lane.version for lane in self if lane.name == name]

    def in_folder(self, folder: str) -> Lane | None:
        """The lane of the pair in `models/<folder>`."""
        return next((lane for lane in self if lane.folder == folder), None)

    def make_default(self, lane: Lane) -> None:
        """Add the lane if it is new, and answer with it from now on where no pair is named."""
        self._lanes[lane.name, lane.version] = lane
        self.default = lane

    def remove(self, lane: Lane) -> None:
        """Give the lane to no further request; never the default one."""
        assert lane is not self.default
        if self._lanes.get((lane.name, lane.version)) is lane:
            del self._lanes[lane.name, lane.version]
