"""A video reader whose decoder runs in a process of its own, so that a crash or a hang costs a stretch of the video.

The child is watched: when it dies, or says nothing for `hang_s`, it is killed and another one goes on at the next
keyframe. That one finds its way there without decoding, by reading the container from the start, so that times stay
exact. Where the next one delivers nothing either, more is left out, twice as much each time. After `_MAX_RESTARTS`
the rest of the video is given up. What was left out is counted as lost and reported with its times.
"""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from serving.errors import VideoError
from serving.inspections.picture_wire import Head, read_message, unpack_sample
from serving.inspections.video import Sample, open_video
from serving.inspections.video_counts import Counts, Ledger, Resume, Stretch, Tally

HANG_S = 60.0
"""Seconds without a sign of life after which a decoder is taken to hang; one that lives gives one every second."""

# A whole PAL picture, so that it takes one turn of either process and not ten.
_PIPE_BYTES = 2**20
_MAX_RESTARTS = 8
_FIRST_SKIP_S = 1.0


class _DecoderLostError(Exception):
    """The child died or hangs."""


class WatchedReader:
    """Like `serving.inspections.video.VideoReader`, and iterating survives the decoder. Iterate once."""

    def __init__(self, path: Path, *, every_s: float, size: int, hang_s: float = HANG_S) -> None:
        self.path = path
        self.info = open_video(path)
        self._every_s, self._size, self._hang_s = every_s, size, hang_s
        self._tally = Tally()
        self._earlier = Ledger()  # of children that were lost
        self._lost: list[Stretch] = []
        self._ended = False

    def __iter__(self) -> Iterator[Sample]:
        resume: Resume | None = None
        skip_s, lost_from_s = 0.0, None
        for _ in range(1 + _MAX_RESTARTS):
            n_before, n_in_sequence = len(self._tally.times_s), self._tally.n_in_sequence
            try:
                for sample in self._read(resume, n_in_sequence):
                    if lost_from_s is not None:
                        self._lost.append(Stretch(start_s=lost_from_s, end_s=sample.pts_s))
                        lost_from_s = None
                    yield sample
                break
            except _DecoderLostError:
                last_s = self._tally.times_s[-1] if self._tally.times_s else 0.0
                delivered = len(self._tally.times_s) > n_before
                skip_s = 0.0 if delivered or resume is None else max(_FIRST_SKIP_S, 2 * skip_s)
                lost_from_s = last_s
                ledger = self._tally.ledger
                self._earlier = Ledger(
                    decoded=ledger.decoded,
                    skipped=ledger.skipped,
                    corrupt=ledger.corrupt,
                    corrupt_stretches=list(ledger.corrupt_stretches),
                )
                resume = Resume(index=ledger.received, time_s=last_s + skip_s)
        if lost_from_s is not None:
            end_s = max(self._tally.last_picture_s, self.info.duration_s or 0.0)
            self._lost.append(Stretch(start_s=lost_from_s, end_s=end_s))
        self._ended = True
        if not self._tally.times_s:
            raise VideoError(
                f"{self.path}: the decoder crashes or hangs on it; convert the video, for example to H.264"
            )

    @property
    def counts(self) -> Counts:
        """What has become of the pictures so far; `lost` is known when iterating has ended."""
        ledger = self._tally.ledger
        lost = ledger.received - ledger.decoded - ledger.skipped - ledger.corrupt
        return self._tally.counts(lost=lost if self._ended else 0, lost_stretches=self._lost)

    def _read(self, resume: Resume | None, n_in_sequence: int) -> Iterator[Sample]:
        """One child's samples, with the books kept."""
        child = _Child(self.path, self._every_s, self._size, resume, hang_s=self._hang_s)
        try:
            while True:
                head, planes = read_message(child.read)
                if head["kind"] == "error":
                    raise VideoError(head["why"])
                if head["kind"] == "alive":
                    continue
                self._enter(head, n_in_sequence)
                if head["kind"] == "end":
                    return
                sample = unpack_sample(head, planes)
                self._tally.times_s.append(sample.pts_s)
                yield sample
        finally:
            child.end()

    def _enter(self, head: Head, n_in_sequence: int) -> None:
        new, earlier, tally = head["ledger"], self._earlier, self._tally
        tally.ledger = Ledger(
            received=new.received,
            decoded=earlier.decoded + new.decoded,
            skipped=earlier.skipped + new.skipped,
            corrupt=earlier.corrupt + new.corrupt,
            corrupt_stretches=[*earlier.corrupt_stretches, *new.corrupt_stretches],
        )
        last_s = tally.keyframe_times_s[-1] if tally.keyframe_times_s else -1.0
        # A child that goes on passes the keyframes again that the one before it has reported.
        tally.keyframe_times_s += [time_s for time_s in head["keyframe_times_s"] if time_s > last_s]
        tally.n_in_sequence = n_in_sequence + head["n_in_sequence"]
        tally.last_picture_s = max(tally.last_picture_s, head["last_picture_s"])


class _Child:
    """The decoding process and its pipe."""

    def __init__(self, path: Path, every_s: float, size: int, resume: Resume | None, *, hang_s: float) -> None:
        arguments = [str(path.absolute()), repr(every_s), str(size)]
        if resume is not None:
            arguments += [str(resume.index), repr(resume.time_s)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serving.inspections.decoder_child", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        with suppress(OSError):  # the system allows less
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._hang_s = hang_s

    def read(self, n_bytes: int) -> bytearray:
        """Exactly so many bytes of what it writes. Raises `_DecoderLostError`."""
        content = bytearray(n_bytes)
        rest = memoryview(content)
        while rest:
            if not select.select([self._pipe], [], [], self._hang_s)[0]:
                raise _DecoderLostError
            n = os.readv(self._pipe, [rest])
            if n == 0:
                raise _DecoderLostError
            rest = rest[n:]
        return content

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
