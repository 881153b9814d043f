"""The inside of the video reader: times of coded pictures, which of them to decode and how, and what became of each.

`serving.inspections.video` says what the reader promises; here is how. A coded picture travels as a `Ticket` from the
container through the decoder, which hands the ticket back with the decoded frame (FFmpeg's opaque reference), so that
times and fates never have to be guessed from the order in which frames come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from serving.inspections.video_counts import Ledger

TOLERANCE_S = 1e-3
"""Times that differ by no more are the same: containers round to their time base, often 1 ms."""

Mode = Literal["alone", "sequence", "skip"]

# A group of pictures above this is decoded in sequence, whatever its length: more than encoders make within a minute.
_MAX_WAITING_BYTES, _MAX_WAITING = 64 * 2**20, 4096
_MAX_REORDERING = 64  # pictures; a decoder that has not returned one after so many later ones never will
_BACKWARD_JUMP_S = 1.0  # decoding times only rise; falling by more than this is a new recording
_BEYOND_END_S = 10.0  # past the declared end, after which a time stamp is taken for damage
_USUAL_INTERVAL_S = 0.04
# Of so many pictures in a row, some other one refers to at least one: encoders rarely put more than five between.
_REFERENCE_WITHIN = 6


@dataclass(kw_only=True)
class Ticket:
    """One coded picture; `index` counts in coding order, `packet` is let go once the decoder has it.

    `may_be_skipped`: the decoder was told to leave it out if no other picture refers to it.
    """

    index: int
    time_s: float
    is_keyframe: bool
    n_bytes: int
    packet: Packet[VideoStream] | None
    may_be_skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A picture that could be sampled: decoded (`frame`), or a keyframe that still can be (`ticket`).

    With neither, it only says that others follow from this time on.
    """

    time_s: float
    frame: VideoFrame | None = None
    ticket: Ticket | None = None


class Clock:
    """Time stamps of packets, in coding order, to seconds from the video's start."""

    def __init__(self, *, start_s: float | None, duration_s: float | None, frame_rate: float | None) -> None:
        self._start_s = start_s
        self._duration_s = duration_s
        self._interval_s = 1 / frame_rate if frame_rate else _USUAL_INTERVAL_S
        self._offset_s = 0.0  # what jumps back have cost so far
        self._last_decoding_s: float | None = None
        self._last_stamp_s: float | None = None
        self._last_s = -self._interval_s

    def seconds(self, *, presentation_s: float | None, decoding_s: float | None) -> float:
        """Seconds from the start, to the microsecond, of the picture with these stamps; either may be missing."""
        return round(self._seconds(presentation_s, decoding_s), 6)

    def _seconds(self, presentation_s: float | None, decoding_s: float | None) -> float:
        stamp_s = presentation_s if presentation_s is not None else decoding_s
        if stamp_s is None or stamp_s == self._last_stamp_s or self._is_damaged(stamp_s):
            self._last_s += self._interval_s
            return self._last_s
        self._last_stamp_s = stamp_s
        if self._start_s is None:
            self._start_s = stamp_s
        order_s = (decoding_s if decoding_s is not None else stamp_s) + self._offset_s
        if self._last_decoding_s is not None and order_s < self._last_decoding_s - _BACKWARD_JUMP_S:
            jump_s = self._last_decoding_s + self._interval_s - order_s
            self._offset_s += jump_s
            order_s += jump_s
        self._last_decoding_s = order_s
        self._last_s = max(0.0, stamp_s + self._offset_s - self._start_s)
        return self._last_s

    def _is_damaged(self, stamp_s: float) -> bool:
        if self._start_s is None or self._duration_s is None:
            return False
        return stamp_s > self._start_s + self._duration_s + _BEYOND_END_S


def plan(tickets: Iterable[Ticket], every_s: float) -> Iterator[tuple[Ticket, Mode]]:
    """Say of each picture, in coding order, whether to decode it alone, in sequence, or not at all.

    The pictures from one keyframe to the next form a group. If it spans no more than `every_s`, its keyframe is enough;
    else all of it is decoded in sequence, as is what precedes the first keyframe. No more than `every_s` of coded
    pictures wait for the decision.
    """
    waiting: list[Ticket] = []
    n_bytes = 0  # of those that wait
    in_sequence = False  # whether the last group was decoded so
    # Pictures of an open group that are shown before its keyframe refer to the group before. Where that one was
    # not decoded they cannot be, nor are they needed: its keyframe is near enough.
    decodable_from_s = 0.0
    for ticket in tickets:
        if ticket.is_keyframe:
            if waiting:
                in_sequence = _exceeds(waiting[0], ticket, every_s) or (in_sequence and _is_open(waiting))
                yield from _decide(waiting, decodable_from_s, long=in_sequence)
                decodable_from_s = decodable_from_s if in_sequence else ticket.time_s
            waiting, n_bytes = [ticket], ticket.n_bytes
        elif waiting:
            waiting.append(ticket)
            n_bytes += ticket.n_bytes
            too_large = n_bytes > _MAX_WAITING_BYTES or len(waiting) > _MAX_WAITING
            if too_large or _exceeds(waiting[0], ticket, every_s):
                in_sequence = True
                yield from _decide(waiting, decodable_from_s, long=True)
                waiting = []
        else:
            in_sequence = True
            yield from _decide([ticket], decodable_from_s, long=True)
    yield from _decide(waiting, decodable_from_s, long=in_sequence and _is_open(waiting))


def _exceeds(keyframe: Ticket, other: Ticket, every_s: float) -> bool:
    return other.time_s - keyframe.time_s > every_s + TOLERANCE_S


def _is_open(group: list[Ticket]) -> bool:
    """Whether pictures are shown between the group before and this one's keyframe; after a long group they count."""
    return any(each.time_s < group[0].time_s for each in group)


def _decide(pictures: list[Ticket], decodable_from_s: float, *, long: bool) -> Iterator[tuple[Ticket, Mode]]:
    """Modes of a group of pictures, or of a piece of a long one."""
    for ticket in pictures:
        if not long:
            yield ticket, "alone" if ticket is pictures[0] else "skip"
        else:
            yield ticket, "sequence" if ticket.time_s >= decodable_from_s else "skip"


class Decoder:
    """A stream's decoder with the books kept: every ticket that is sent is settled with the ledger.

    In sequence, pictures that no other one refers to are skipped, unless those that remain turn out to lie farther
    apart than `every_s`.
    """

    def __init__(self, stream: VideoStream, ledger: Ledger, *, every_s: float, frame_rate: float | None) -> None:
        self._context = stream.codec_context
        # One thread: decoding overlaps with scoring, and frame threads would blame errors on later pictures.
        self._context.thread_count = 1
        self._context.copy_opaque = True
        self._ledger = ledger
        self._every_s = every_s
        self._in_flight: dict[int, Ticket] = {}
        self._last_s: float | None = None
        self._clean = True  # no corrupt picture since the last good one
        self.idle = True
        interval_s = 1 / frame_rate if frame_rate else _USUAL_INTERVAL_S
        self._set_skipping(every_s >= _REFERENCE_WITHIN * interval_s)

    def send(self, ticket: Ticket) -> Iterator[Candidate]:
        """Send a picture in sequence; yields those that become ready, in order of time."""
        self.idle = False
        packet, ticket.packet = ticket.packet, None
        assert packet is not None, "a picture is sent once"
        packet.opaque = ticket
        self._in_flight[ticket.index] = ticket
        ticket.may_be_skipped = self._skipping and not ticket.is_keyframe
        try:
            frames = self._context.decode(packet)
        except FFmpegError:
            del self._in_flight[ticket.index]
            self._settle_corrupt(ticket)
            return
        for frame in frames:
            yield from self._receive(frame)

    def drain(self) -> Iterator[Candidate]:
        """What the decoder still holds; afterwards it is `idle` and knows no earlier picture."""
        if self.idle:
            return
        try:
            frames = self._context.decode(None)
        except FFmpegError:
            frames = []
        for frame in frames:
            yield from self._receive(frame)
        self._give_up_on(list(self._in_flight))
        self._context.flush_buffers()
        self._last_s = None
        self.idle = True

    def decode_alone(self, keyframe: Ticket) -> VideoFrame | None:
        """A keyframe by itself, None if it is corrupt; the decoder must be `idle`."""
        assert self.idle, "a keyframe in the middle of a sequence would tear it"
        candidates = [*self.send(keyframe), *self.drain()]
        return candidates[0].frame if candidates else None

    def _receive(self, frame: VideoFrame) -> Iterator[Candidate]:
        ticket = frame.opaque
        if not isinstance(ticket, Ticket) or self._in_flight.pop(ticket.index, None) is None:
            return  # what is left of a picture that has already been settled as corrupt
        self._give_up_on([index for index in self._in_flight if index < ticket.index - _MAX_REORDERING])
        if frame.is_corrupt:
            self._settle_corrupt(ticket)
            return
        self._ledger.settle(ticket.time_s, "decoded")
        if self._last_s is not None:
            # AVI stamps H.264 in coding order; a picture that seems to come too early must not turn time back.
            if ticket.time_s <= self._last_s:
                return
            if self._clean and ticket.time_s - self._last_s > self._every_s + TOLERANCE_S:
                self._set_skipping(False)
        self._last_s = ticket.time_s
        self._clean = True
        yield Candidate(time_s=ticket.time_s, frame=frame)

    def _give_up_on(self, indices: list[int]) -> None:
        """Settle pictures that were sent and did not come back."""
        for index in indices:
            ticket = self._in_flight.pop(index)
            if ticket.may_be_skipped:
                self._ledger.settle(ticket.time_s, "skipped")
            else:
                self._settle_corrupt(ticket)

    def _settle_corrupt(self, ticket: Ticket) -> None:
        self._clean = False
        self._ledger.settle(ticket.time_s, "corrupt")

    def _set_skipping(self, skipping: bool) -> None:
        self._skipping = skipping
        self._context.skip_frame = "NONREF" if skipping else "DEFAULT"
