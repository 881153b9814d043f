"""One patch of a video's pictures that may be a distance counter: watched on every frame, read on few.

Shape legend: h w height and width of the patch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as CountOf
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.inspections.distance import (
    Counter,
    Place,
    Reading,
    is_possible,
    largest_error,
    locate,
    parse_counter,
    usual_pace,
)
from serving.inspections.text_reader import Line

Gray = NDArray[np.uint8]

# Frames between two readings while the pace has not proved steady or nothing can be read, and at most; never more
# seconds than these.
_STRIDE, _MAX_STRIDE = 8, 40
_MAX_STRIDE_S = 20.0
_STEADY_AFTER = 3
# Readings allowed for: some to start with, then a share of the frames.
_FREE_READINGS, _READINGS_PER_FRAME = 16, 0.12
# Least confidence of the reader of text that makes a reading.
_LEGIBLE = 0.8
# Characters up to which a line is read as a whole.
_SHORT_LINE = 24
# Error between two readings that calls for one between them: metres, and units of the counter's last digit.
_WORTH_READING_M, _WORTH_READING_DIGITS = 0.05, 0.3
# Frames apart down to which is read while the pace is not known.
_FIRST_APART = 2
# Frames apart at which two readings are left alone that contradict each other, or of which one failed.
_CONTRADICTION_LEFT = _APPEARANCE_LEFT = 4
# Grey levels by which some cell of a patch must differ from the last one that was different; cells a patch is high.
_CHANGED_BY = 7.0
_CELLS_HIGH = 11
# Share of its strength at the last reading below which the ink of a patch has faded: letters are blurred or gone.
_FADED = 0.3
# Share of the range of grey from the cut to full ink that makes a cell inked, share of a patch's height
# from which on a column past the cut is a stroke, and cells left before and behind both: before them the width of a
# digit, since a thin one that is not seen and cut off makes a number that is wrong and looks right.
_INKED = 0.15
_STROKE = 0.2
_MARGIN_CELLS = (6, 2)
# Readings in a row that may be taken over from a picture that did not change, before one is made after all.
_TAKEN_OVER = 2
# Readings before the latest frames by which these are located, before the video has ended.
_CONTEXT = 24
# A counter moves at least so far, metres, and shows so many numbers; without its unit it must also keep its direction.
_MIN_RANGE_M = 0.2
_MIN_VALUES = 3
_MIN_ONE_WAY = 0.8


class ReadsPatches(Protocol):
    """What a band needs of `serving.inspections.text_reader.TextReader`."""

    def read(self, patch: Gray) -> tuple[str, float]: ...


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Rows and columns of a picture."""

    rows: slice
    columns: slice

    def overlaps(self, other: Patch) -> bool:
        """Whether the two share any pixel."""
        pairs = ((self.rows, other.rows), (self.columns, other.columns))
        return all(a.start < b.stop and b.start < a.stop for a, b in pairs)


def patch_around(line: Line, counter: Counter, shape: tuple[int, ...]) -> Patch:
    """Where in pictures of `shape` the counter of a line stands, with room for the digits that it may grow by.

    A short label stays with it, since half of one could be taken for digits.
    """
    per_character = (line.right - line.left) / max(1, len(line.text))
    first, last = (0, len(line.text)) if len(line.text) <= _SHORT_LINE else counter.at
    across, up = round(0.75 * line.height), round(0.1 * line.height)
    return Patch(
        rows=slice(max(0, line.top - up), min(shape[0], line.bottom + up)),
        columns=slice(
            max(0, round(line.left + first * per_character) - across),
            min(shape[1], round(line.left + last * per_character) + across),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A frame since the last reading: its number, times, and patch."""

    index: int
    time_s: float
    moving_s: float
    patch: Gray
    has_faded: bool


class Band:
    """A patch over the frames of one video, from number `first`, that it was found on."""

    def __init__(self, reader: ReadsPatches, patch: Patch, *, first: int) -> None:
        self.patch = patch
        self.first = first
        self.times_s: list[float] = []
        self.moving_s: list[float] = []
        self.unread_in_a_row = 0
        self.is_counter = False  # whether what was read so far moves as a distance does
        self._reader = reader
        self._held: list[_Seen] = []
        self._read: dict[int, tuple[Counter, float] | None] = {}
        self._n_read = self._n_taken_over = 0
        self._ink: Ink | None = None
        self._last_legible: Ink | None = None
        self._faded_s: list[float] = []
        self._changed_since_read = True
        self._stride, self._n_steady, self._is_pace_known = _STRIDE, 0, False

    def see(self, time_s: float, picture: Gray) -> None:
        """The next frame, uint8 [H, W]."""
        patch = picture[self.patch.rows, self.patch.columns].copy()
        changed = self._ink is None or self._ink.differs(patch)
        moving_s = self.moving_s[-1] if self.moving_s else 0.0
        if changed:
            self._ink = Ink(patch)
            self._changed_since_read = True
            moving_s += time_s - self.times_s[-1] if self.times_s else 0.0
        has_faded = self._last_legible is not None and self._last_legible.has_faded_in(patch)
        comes_or_goes = bool(self._held) and has_faded != self._held[-1].has_faded and self._may_read_more()
        if comes_or_goes and has_faded:
            self.finish()  # what can still be read is, up to here
        self._held.append(
            _Seen(index=len(self.times_s), time_s=time_s, moving_s=moving_s, patch=patch, has_faded=has_faded)
        )
        self.times_s.append(time_s)
        self.moving_s.append(moving_s)
        if has_faded:
            self._faded_s.append(time_s)
        is_due = len(self._held) == 1 or len(self._held) > self._stride
        is_late = time_s - self._held[0].time_s >= _MAX_STRIDE_S
        if is_due or is_late or (comes_or_goes and not has_faded):
            self._catch_up()

    def finish(self) -> None:
        """No more is to come, or nothing that can be read; reads what is still worth it."""
        if len(self._held) > 1:
            self._catch_up()

    @property
    def readings(self) -> list[Reading]:
        """All readings so far that have the counter's usual number of decimals, in order of time."""
        return [
            Reading(time_s=self.times_s[index], distance_m=counter.distance_m, confidence=confidence)
            for index, (counter, confidence) in self._usual()
        ]

    @property
    def failures_s(self) -> list[float]:
        """Times of the frames that were read in vain, or whose letters had faded, rising."""
        in_vain = (self.times_s[index] for index, read in self._read.items() if read is None)
        read_s = {self.times_s[index] for index, read in self._read.items() if read is not None}
        return sorted({*in_vain, *self._faded_s} - read_s)

    @property
    def is_behind(self) -> bool:
        """Whether the newest frame has not been read, so that nothing is known of it."""
        return len(self._held) > 1

    def latest_places(self, n: int) -> list[Place]:
        """Where the latest `n` frames were taken, by their readings and some before them; it must not be behind."""
        readings, failures_s = self.readings, self.failures_s
        since = bisect_left(readings, self.times_s[-n], key=lambda reading: reading.time_s)
        readings = readings[max(0, since - _CONTEXT) :]
        begin_s = min([self.times_s[-n], *(reading.time_s for reading in readings[:1])])
        begin = bisect_left(self.times_s, begin_s)
        return locate(self.times_s[begin:], self.moving_s[begin:], readings, failures_s)[-n:]

    def _moves_as_a_distance(self) -> bool:
        usual = [counter for _, (counter, _) in self._usual()]
        values = [counter.distance_m for counter in usual]
        if len(set(values)) < _MIN_VALUES or max(values) - min(values) < _MIN_RANGE_M:
            return False
        if sum(counter.has_unit for counter in usual) >= len(usual) / 2:
            return True
        steps = np.diff(values)
        return bool(abs(steps.sum()) >= _MIN_ONE_WAY * np.abs(steps).sum())

    def _usual(self) -> list[tuple[int, tuple[Counter, float]]]:
        read = [(index, each) for index, each in sorted(self._read.items()) if each is not None]
        if not read:
            return []
        ((decimals, _),) = CountOf(counter.decimals for _, (counter, _) in read).most_common(1)
        return [(index, each) for index, each in read if each[0].decimals == decimals]

    def _catch_up(self) -> None:
        """Read the newest frame, then those before it that cannot be told from it and the last one read."""
        first, newest = self._held[0], self._held[-1]
        before = self._n_read
        self._read_frame(newest)
        if first is not newest:
            self._read_between(0, len(self._held) - 1)
        steady = self._n_read - before <= 1 and self._read[newest.index] is not None
        self._n_steady = self._n_steady + 1 if steady else 0
        self._is_pace_known = self._is_pace_known or self._n_steady >= _STEADY_AFTER
        # Where something is amiss between two readings far apart, those between them are made anyway. But a counter
        # that cannot be read may have gone elsewhere, which is to be known soon.
        is_long = self._is_pace_known and self._read[newest.index] is not None
        self._stride = _MAX_STRIDE if is_long else _STRIDE
        self.unread_in_a_row = 0 if self._read[newest.index] is not None else self.unread_in_a_row + 1
        self._held = [newest]
        self.is_counter = self._moves_as_a_distance()

    def _read_frame(self, seen: _Seen) -> None:
        is_newest = seen.index == len(self.times_s) - 1
        last = self._read.get(self._held[0].index)
        if is_newest and not self._changed_since_read and last is not None and self._n_taken_over < _TAKEN_OVER:
            self._read[seen.index] = last  # the same picture says the same
            self._n_taken_over += 1
            return
        self._n_read += 1
        text, confidence = self._reader.read(trimmed(seen.patch))
        counter = parse_counter(text)
        self._read[seen.index] = None if counter is None or confidence < _LEGIBLE else (counter, min(1.0, confidence))
        if self._read[seen.index] is not None:
            self._last_legible = Ink(seen.patch)
        if is_newest:
            self._changed_since_read = False
            self._n_taken_over = 0
            self._ink = Ink(seen.patch)

    def _read_between(self, a: int, b: int) -> None:
        """Read between two frames that were, positions among those held, if that would say more."""
        if b - a <= 1 or not self._may_read_more():
            return
        if not self._is_worth_reading(a, b):
            return
        middle = (a + b) // 2
        self._read_frame(self._held[middle])
        self._read_between(a, middle)
        self._read_between(middle, b)

    def _may_read_more(self) -> bool:
        return self._n_read < _FREE_READINGS + _READINGS_PER_FRAME * len(self.times_s)

    def _is_worth_reading(self, a: int, b: int) -> bool:
        earlier, later = self._reading(a), self._reading(b)
        if earlier is None or later is None:
            # About where the counter comes or goes.
            is_between = (earlier is not None or later is not None) and b - a > _APPEARANCE_LEFT
            return is_between and not self._held[(a + b) // 2].has_faded
        if not is_possible(earlier, later):
            return b - a > _CONTRADICTION_LEFT
        metres = later.distance_m - earlier.distance_m
        seconds = self._held[b].moving_s - self._held[a].moving_s
        if seconds == 0 and metres == 0:
            return False
        pace = self._pace()
        if pace is None:
            return b - a > _FIRST_APART
        return largest_error(metres, seconds, pace) > self._worth_reading_m()

    def _reading(self, position: int) -> Reading | None:
        seen = self._held[position]
        read = self._read.get(seen.index)
        if read is None:
            return None
        return Reading(time_s=seen.time_s, distance_m=read[0].distance_m, confidence=read[1])

    def _worth_reading_m(self) -> float:
        usual = self._usual()
        digit_m = 10.0 ** -usual[0][1][0].decimals if usual else 0.0
        return _WORTH_READING_M + _WORTH_READING_DIGITS * digit_m

    def _pace(self) -> float | None:
        """From all readings before those that are being made; None if there are too few."""
        usual = [(index, counter) for index, (counter, _) in self._usual() if index <= self._held[0].index]
        steps = [
            (b.distance_m - a.distance_m, self.moving_s[j] - self.moving_s[i]) for (i, a), (j, b) in pairwise(usual)
        ]
        return usual_pace(steps[-32:])


def trimmed(patch: Gray) -> Gray:
    """The columns of a patch, uint8 [h, w], that have letters in them and some beside: reading takes time by width."""
    return patch[:, Ink(patch).columns_of(patch)]


class Ink:
    """The letters of a patch, uint8 [h, w], to tell those of later ones from; what shows through beside them is cut.

    Letters are whichever of bright and dark stands out more from the patch's usual grey.
    """

    def __init__(self, patch: Gray) -> None:
        levels = np.sort(patch[::2, ::2], axis=None).astype(int)  # every frame is looked at, so not more than will do
        darkest, usual, brightest = (int(levels[round(share * (len(levels) - 1))]) for share in (0.01, 0.5, 0.99))
        self._are_bright = bool(brightest - usual >= usual - darkest)
        extreme = brightest if self._are_bright else darkest
        self._cut = np.uint8((usual + extreme) // 2)
        self._range = abs(extreme - int(self._cut))
        self._side = max(2, patch.shape[0] // _CELLS_HIGH)
        self._cells = self._mean_by_cell(patch)

    def columns_of(self, patch: Gray) -> slice:
        """Columns from the first to the last of its own patch with ink in it, with a margin; all if none has.

        Either by cells or by the height of what is past the cut: a leading 1 may be a line one pixel wide.
        """
        by_cell = (np.abs(self._cells - self._cut) > _INKED * self._range).any(axis=0)
        past = patch > self._cut if self._are_bright else patch < self._cut
        is_stroke = past.sum(axis=0) >= _STROKE * len(patch)
        inked = np.union1d(np.flatnonzero(np.repeat(by_cell, self._side)), np.flatnonzero(is_stroke))
        if not len(inked):
            return slice(None)
        left, right = (cells * self._side for cells in _MARGIN_CELLS)
        return slice(max(0, int(inked[0]) - left), int(inked[-1]) + 1 + right)

    def has_faded_in(self, patch: Gray) -> bool:
        """Whether no letter stands out in another patch of the same place as those of this one do."""
        strength, now = (float(np.abs(cells - self._cut).max()) for cells in (self._cells, self._mean_by_cell(patch)))
        return now < _FADED * strength

    def differs(self, patch: Gray) -> bool:
        """Whether another patch of the same place has other letters."""
        return bool(np.abs(self._mean_by_cell(patch) - self._cells).max() > _CHANGED_BY)

    def _mean_by_cell(self, patch: Gray) -> NDArray[np.float32]:
        ink = np.maximum(patch, self._cut) if self._are_bright else np.minimum(patch, self._cut)
        side = self._side
        high, wide = patch.shape[0] // side, patch.shape[1] // side
        cells = ink[: high * side, : wide * side].reshape(high, side, wide, side)
        return np.asarray(cells.mean(axis=(1, 3)), np.float32)
