"""What became of a video's pictures: the books that the reader keeps, and the account that is given of them.

Apart from the reader, since they outlive a decoder that crashed.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

Fate = Literal["decoded", "skipped", "corrupt"]
Strategy = Literal["keyframes", "sequential", "mixed"]

_CORRUPT_JOIN_S = 1.0
_MIXED_FROM = 0.1  # share of the pictures read the rarer way, above which both ways are named


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A piece of a video's time, in seconds from its start."""

    start_s: float
    end_s: float


@dataclass
class Ledger:
    """Counts pictures; each that was received is settled once, when its fate is known."""

    received: int = 0
    decoded: int = 0
    skipped: int = 0
    corrupt: int = 0
    corrupt_stretches: list[Stretch] = field(default_factory=list)

    def settle(self, time_s: float, fate: Fate) -> None:
        setattr(self, fate, getattr(self, fate) + 1)
        if fate == "corrupt":
            self._note_corrupt(time_s)

    def _note_corrupt(self, time_s: float) -> None:
        """Extend the latest stretch, or begin one; pictures come a little out of order."""
        last = self.corrupt_stretches[-1] if self.corrupt_stretches else None
        if last is not None and last.start_s - _CORRUPT_JOIN_S <= time_s <= last.end_s + _CORRUPT_JOIN_S:
            joined = Stretch(start_s=min(last.start_s, time_s), end_s=max(last.end_s, time_s))
            self.corrupt_stretches[-1] = joined
        else:
            self.corrupt_stretches.append(Stretch(start_s=time_s, end_s=time_s))


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Where a reader goes on: at the first keyframe with at least this index, in coding order, and time."""

    index: int
    time_s: float


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of a video's pictures; `pictures == decoded + skipped + corrupt + lost` and `sampled <= decoded`.

    Attributes:
        strategy: see `serving.inspections.video`; `mixed` if more than a tenth was read the rarer way.
        pictures: coded pictures that the container delivered.
        sampled: how many were handed out.
        skipped: not decoded, because nothing needed them.
        corrupt_stretches: when the corrupt ones are; neighbours are joined.
        lost: went down with a decoder that crashed or hung.
        lost_stretches: from the last sample of such a decoder to the first one of the next, or to the end.
        keyframe_spacing_s: median time between keyframes; None with fewer than two.
        spacing_s, longest_gap_s: median and largest time between samples; None with fewer than two.
        last_picture_s: time of the last picture that the container delivered.
    """

    strategy: Strategy
    pictures: int
    decoded: int
    sampled: int
    skipped: int
    corrupt: int
    corrupt_stretches: tuple[Stretch, ...]
    lost: int = 0
    lost_stretches: tuple[Stretch, ...] = ()
    keyframe_spacing_s: float | None
    spacing_s: float | None
    longest_gap_s: float | None
    last_picture_s: float


@dataclass
class Tally:
    """The books of one reader: fates so far, and the times of samples and of keyframes."""

    ledger: Ledger = field(default_factory=Ledger)
    times_s: list[float] = field(default_factory=list)
    keyframe_times_s: list[float] = field(default_factory=list)
    n_in_sequence: int = 0
    last_picture_s: float = 0.0

    @property
    def strategy(self) -> Strategy:
        """How the video has been read so far."""
        share = self.n_in_sequence / max(1, self.ledger.received)
        if min(share, 1 - share) > _MIXED_FROM:
            return "mixed"
        return "sequential" if share > 0.5 else "keyframes"

    def counts(self, *, lost: int = 0, lost_stretches: Sequence[Stretch] = ()) -> Counts:
        between, spacings = gaps(self.times_s), gaps(self.keyframe_times_s)
        return Counts(
            strategy=self.strategy,
            pictures=self.ledger.received,
            decoded=self.ledger.decoded,
            sampled=len(self.times_s),
            skipped=self.ledger.skipped,
            corrupt=self.ledger.corrupt,
            corrupt_stretches=tuple(self.ledger.corrupt_stretches),
            lost=lost,
            lost_stretches=tuple(lost_stretches),
            keyframe_spacing_s=statistics.median(spacings) if spacings else None,
            spacing_s=statistics.median(between) if between else None,
            longest_gap_s=max(between, default=None),
            last_picture_s=self.last_picture_s,
        )


def gaps(times_s: Sequence[float]) -> list[float]:
    """Times between neighbours."""
    return [later - earlier for earlier, later in pairwise(times_s)]
