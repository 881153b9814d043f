"""The process that decodes one video for `serving.inspections.watched_reader`, which outlives whatever happens here.

It writes messages (`serving.inspections.picture_wire`) to standard output: `alive` when it begins and now and then,
`info` when the video is open, pictures with the books so far, at last `end` or `error`. They lie in memory that
it was given (`serving.inspections.picture_slots`), or follow where they do not fit. A byte in a pipe that it was given
says that the oldest of them was taken out. When its standard input ends, so does it: then nobody is left who wants
them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO

import numpy as np

from serving.errors import VideoError
from serving.inspections.picture_slots import SLOT_BYTES, SLOTS, Slots
from serving.inspections.picture_wire import Head, lay_out, n_bytes_of, pack_picture, write_message
from serving.inspections.pictures import Picture
from serving.inspections.video import PictureReader, Resume

_ALIVE_EVERY_S = 1.0


def main() -> None:
    """Decode as the arguments say: path, seconds between pictures, two descriptors, and where to go on."""
    path, every_s, memory, taken_out, *at = sys.argv[1:]
    resume = Resume(index=int(at[0]), time_s=float(at[1])) if at else None
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints must not end up among the messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        write_message(pipe, {"kind": "alive"})
        alive = _Alive(pipe)
        reader = PictureReader(Path(path), every_s=float(every_s), resume=resume, on_picture=alive.see_picture)
        write_message(pipe, {"kind": "info", "info": reader.info})
        _Sender(pipe, Slots(int(memory)), int(taken_out)).send(reader)
    except VideoError as error:
        write_message(pipe, {"kind": "error", "why": str(error)})
    except BrokenPipeError:
        os._exit(0)


class _Alive:
    """Says now and then that pictures pass, though none of them is sampled."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._last_s = time.monotonic()

    def see_picture(self) -> None:
        if time.monotonic() - self._last_s > _ALIVE_EVERY_S:
            self._last_s = time.monotonic()
            write_message(self._pipe, {"kind": "alive"})


class _Sender:
    """Sends what a reader gives, by way of the slots in turn; `taken_out` gives a byte for each that is free again."""

    def __init__(self, pipe: IO[bytes], slots: Slots, taken_out: int) -> None:
        self._pipe, self._slots, self._taken_out = pipe, slots, taken_out
        self._slot, self._n_free = 0, SLOTS

    def send(self, reader: PictureReader) -> None:
        for pts_s, picture in reader:
            self._send(picture, {"kind": "picture", "pts_s": pts_s} | _books(reader))
        write_message(self._pipe, {"kind": "end"} | _books(reader))

    def _send(self, picture: Picture, about: Head) -> None:
        head, planes = pack_picture(picture)
        n_bytes = n_bytes_of(head)
        if n_bytes > SLOT_BYTES:
            content = np.empty(n_bytes, np.uint8)
            lay_out(head, planes, content)
            write_message(self._pipe, head | about, content)
            return
        if self._n_free == 0:
            self._n_free = len(os.read(self._taken_out, SLOTS))
        self._n_free -= 1
        lay_out(head, planes, self._slots[self._slot])
        write_message(self._pipe, head | about | {"slot": self._slot})
        self._slot = (self._slot + 1) % SLOTS


def _books(reader: PictureReader) -> Head:
    """What is new in them since the last time."""
    tally = reader.tally
    new, tally.keyframe_times_s = tally.keyframe_times_s, []
    return {
        "ledger": tally.ledger,
        "keyframe_times_s": new,
        "n_in_sequence": tally.n_in_sequence,
        "last_picture_s": tally.last_picture_s,
    }


def _end_with_parent() -> None:
    # Not by way of sys.stdin, whose lock this thread would still hold when the interpreter ends.
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
