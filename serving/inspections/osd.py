"""Distance off the picture: finds the counter that an inspection system burns in, and reads it as rarely as will do.

**Finding.** Text is detected on the first sampled frame, then ever more rarely, until a line that could be a counter
is there. All lines that could be are watched; the one whose number moves is the counter. Numbers that stand still for
the whole video, however much like metres they look, are not.

**Reading.** Only the counter's own patch of the picture is read, `serving.inspections.osd_band` says when. The number
of readings is bounded by the number of frames, whatever the video shows.

Shape legend: H W height and width of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.inspections.distance import NOWHERE, Place, locate, parse_counter
from serving.inspections.osd_band import Band, ReadsPatches, patch_around
from serving.inspections.text_reader import Line

# Frames until text is looked for again, if there was none, and by how much each pause is longer than the last.
_FIRST_PAUSE, _LONGER = 12, 3
_MAX_BANDS = 3
# Failed readings in a row after which a band no longer keeps the counter from being looked for elsewhere.
_SILENT_AFTER = 3
# Frames that a number is given to move in, where another one does.
_TIME_TO_MOVE = 40


class ReadsPictures(ReadsPatches, Protocol):
    """What is needed of `serving.inspections.text_reader.TextReader`."""

    def find(self, picture: NDArray[np.uint8]) -> list[Line]: ...


class CounterReader:
    """Watches the frames of one video, in their order; afterwards says where each was taken."""

    def __init__(self, reader: ReadsPictures) -> None:
        self._reader = reader
        self._n_seen = self._n_decided = 0
        self._shape: tuple[int, ...] | None = None
        self._bands: list[Band] = []
        self._past: list[Band] = []
        self._next_search, self._pause = 0, _FIRST_PAUSE

    def see(self, time_s: float, picture: NDArray[np.uint8]) -> None:
        """The next sampled frame, uint8 [H, W], upright."""
        if picture.shape != self._shape:  # recordings glued together; a patch is a place in pictures of one size
            self._end_bands()
            self._shape, self._next_search, self._pause = picture.shape, self._n_seen, _FIRST_PAUSE
        if self._n_seen >= self._next_search and all(band.unread_in_a_row >= _SILENT_AFTER for band in self._bands):
            self._search(picture)
        for band in self._bands:
            band.see(time_s, picture)
        self._n_seen += 1
        self._forget_still_numbers()

    def decided(self) -> list[Place]:
        """Where the frames since the last call were taken, by the readings so far; later ones may refute them.

        None while there are any that the counter may still be read on, or that lie between two of its readings.
        """
        if any(band.is_counter and band.is_behind for band in self._bands):
            return []
        places = [NOWHERE] * (self._n_seen - self._n_decided)
        for band in (*self._past, *self._bands):
            if band.is_counter and band.first + len(band.times_s) > self._n_decided:
                latest = band.latest_places(band.first + len(band.times_s) - max(band.first, self._n_decided))
                first = max(band.first, self._n_decided) - self._n_decided
                for i, place in enumerate(latest, start=first):
                    places[i] = place if places[i] is NOWHERE else places[i]
        self._n_decided = self._n_seen
        return places

    def finish(self) -> None:
        """No more frames come."""
        self._end_bands()

    def places(self, times_s: Sequence[float]) -> list[Place]:
        """Where each frame was taken; `times_s` are those of all frames, as they were seen."""
        self.finish()
        places = [NOWHERE] * len(times_s)
        for band in self._past:
            if band.is_counter:
                located = locate(band.times_s, band.moving_s, band.readings, band.failures_s)
                for i, place in enumerate(located, start=band.first):
                    places[i] = place if places[i] is NOWHERE else places[i]
        return places

    def _search(self, picture: NDArray[np.uint8]) -> None:
        self._next_search, self._pause = self._n_seen + self._pause, _LONGER * self._pause
        found = [(line, parse_counter(line.text)) for line in self._reader.find(picture)]
        counters = [(line, counter) for line, counter in found if counter is not None]
        # A unit is the better sign, then the larger print.
        counters.sort(key=lambda each: (not each[1].has_unit, -each[0].height))
        known = [band.patch for band in self._bands]
        for line, counter in counters[:_MAX_BANDS]:
            patch = patch_around(line, counter, picture.shape)
            if not any(patch.overlaps(other) for other in known):
                self._bands.append(Band(self._reader, patch, first=self._n_seen))

    def _forget_still_numbers(self) -> None:
        """Once a number has moved as a distance does, those that had time to and have not are no longer watched."""
        if len(self._bands) > 1 and any(band.is_counter for band in self._bands):
            self._bands = [band for band in self._bands if band.is_counter or len(band.times_s) < _TIME_TO_MOVE]

    def _end_bands(self) -> None:
        for band in self._bands:
            band.finish()
        self._forget_still_numbers()
        self._past += self._bands
        self._bands = []
