"""A video reader whose file is opened and decoded in a process of its own: a crash or a hang costs a stretch of it.

The child is watched: when it dies, or says nothing for `hang_s`, it is killed and another one goes on at the next
keyframe. That one finds its way there without decoding, by reading the container from the start, so that times stay
exact. Where the next one delivers nothing either, more is left out, twice as much each time. After `_MAX_RESTARTS`
the rest of the video is given up. What was left out is counted as lost and reported with its times. A file that cannot
even be opened without that is an error.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from serving.errors import VideoError
from serving.inspections.picture_slots import Slots, make_memory
from serving.inspections.picture_wire import Bytes, Head, read_message, unpack_picture
from serving.inspections.pictures import Picture
from serving.inspections.video import Sample, VideoInfo, check_file, to_sample
from serving.inspections.video_counts import Counts, Ledger, Resume, Stretch, Tally

# How long a process may take to begin and to end: that depends on the machine, not on the video.
_BEGINNING_S, _ENDING_S = 60.0, 5.0
_MAX_RESTARTS = 8
_FIRST_SKIP_S = 1.0


class _DecoderLostError(Exception):
    """The child died or hangs; the message says which, as what it does."""


class WatchedReader:
    """Like `serving.inspections.video.VideoReader`, and iterating survives the decoder. Iterate once, within a `with`.

    Raises `VideoError` if the file is no readable video, or if opening it crashes or hangs; iterating does if none of
    its pictures can be decoded.
    """

    def __init__(self, path: Path, *, every_s: float, size: int, hang_s: float) -> None:
        check_file(path)
        self.path = path
        self._every_s, self._size, self._hang_s = every_s, size, hang_s
        self._tally = Tally()
        self._earlier = Ledger()  # of children that were lost
        self._lost: list[Stretch] = []
        self._ended = False
        self._child = self._start(None)
        try:
            self.info = self._child.opened()
        except _DecoderLostError as lost:
            self.close()
            raise VideoError(
                f"{path} cannot be opened: what reads it {lost}; copy it again, or convert it, for example to H.264"
            ) from lost
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process that decodes."""
        self._child.end()

    def __iter__(self) -> Iterator[Sample]:
        resume: Resume | None = None
        skip_s, lost_from_s = 0.0, None
        for _ in range(1 + _MAX_RESTARTS):
            n_before, n_in_sequence = len(self._tally.times_s), self._tally.n_in_sequence
            try:
                if resume is not None:
                    self._child = self._start(resume)
                for sample in self._read(n_in_sequence):
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

    def _start(self, resume: Resume | None) -> _Child:
        return _Child(self.path, self._every_s, resume, hang_s=self._hang_s)

    def _read(self, n_in_sequence: int) -> Iterator[Sample]:
        """The child's pictures as samples, with the books kept; afterwards it has ended."""
        try:
            while True:
                head, content = self._child.message()
                if head["kind"] in ("alive", "info"):
                    continue
                self._enter(head, n_in_sequence)
                if head["kind"] == "end":
                    return
                picture = self._child.picture(head, content)
                self._tally.times_s.append(head["pts_s"])
                # Resized here: the child has the most to do, and what overlaps with it costs no time.
                yield to_sample(self.path, head["pts_s"], picture, self._size)
        finally:
            self._child.end()

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
    """The decoding process, its pipe, and the memory that pictures come in."""

    def __init__(self, path: Path, every_s: float, resume: Resume | None, *, hang_s: float) -> None:
        memory = make_memory()
        taken_out, self._taken_out = os.pipe()
        arguments = [str(path.absolute()), repr(every_s), str(memory), str(taken_out)]
        if resume is not None:
            arguments += [str(resume.index), repr(resume.time_s)]
        try:
            self._slots = Slots(memory)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving.inspections.decoder_child", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=[memory, taken_out],
            )
        except BaseException:
            os.close(self._taken_out)
            raise
        finally:
            os.close(memory)
            os.close(taken_out)
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        self._patience_s, self._hang_s = max(hang_s, _BEGINNING_S), hang_s

    def opened(self) -> VideoInfo:
        """What the video says of itself, which comes first. Raises `VideoError` and `_DecoderLostError`."""
        while True:
            head, _ = self.message()
            if head["kind"] == "info":
                info: VideoInfo = head["info"]
                return info

    def picture(self, head: Head, content: Bytes) -> Picture:
        """The picture of a message; its slot is free afterwards."""
        if "slot" not in head:
            return unpack_picture(head, content)
        picture = unpack_picture(head, self._slots[head["slot"]])
        with suppress(BrokenPipeError):  # it died, which the next message says
            os.write(self._taken_out, b".")
        return picture

    def message(self) -> tuple[Head, Bytes]:
        """The next that it says, and what follows it. Raises `VideoError` if that is one, and `_DecoderLostError`."""
        head, content = read_message(self._read)
        self._patience_s = self._hang_s  # it has begun
        if head["kind"] == "error":
            raise VideoError(head["why"])
        return head, content

    def end(self) -> None:
        """Kill it; once is enough, more do no harm."""
        self._process.kill()
        self._process.communicate()
        if self._taken_out >= 0:
            os.close(self._taken_out)
            self._taken_out = -1

    def _read(self, n_bytes: int) -> bytearray:
        """Exactly so many bytes of what it writes."""
        content = bytearray(n_bytes)
        rest = memoryview(content)
        while rest:
            if not select.select([self._pipe], [], [], self._patience_s)[0]:
                raise _DecoderLostError(f"says nothing for {self._patience_s:g} s")
            n = os.readv(self._pipe, [rest])
            if n == 0:
                raise _DecoderLostError(f"crashes ({self._how_it_ended()})")
            rest = rest[n:]
        return content

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"exit code {code}" if code >= 0 else signal.strsignal(-code) or f"signal {-code}"
