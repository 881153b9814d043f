"""The process that decodes one video for `serving.inspections.watched_reader`, which outlives whatever happens here.

It writes messages (`serving.inspections.picture_wire`) to standard output: `alive` when it begins and now and then,
`info` when the video is open, samples with the books so far, at last `end` or `error`. When its standard input ends, so
does it: then nobody is left who wants them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO

from serving.errors import VideoError
from serving.inspections.picture_wire import Head, pack_sample, write_message
from serving.inspections.video import Resume, VideoReader

_ALIVE_EVERY_S = 1.0


def main() -> None:
    """Decode as the arguments say: path, seconds between samples, size, and the index and time to go on at."""
    path, every_s, size, *at = sys.argv[1:]
    resume = Resume(index=int(at[0]), time_s=float(at[1])) if at else None
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints must not end up among the messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        write_message(pipe, {"kind": "alive"})
        alive = _Alive(pipe)
        reader = VideoReader(
            Path(path), every_s=float(every_s), size=int(size), resume=resume, on_picture=alive.see_picture
        )
        write_message(pipe, {"kind": "info", "info": reader.info})
        _send(reader, pipe)
    except VideoError as error:
        write_message(pipe, {"kind": "error", "why": str(error)})
    except BrokenPipeError:
        os._exit(0)


class _Alive:
    """Says now and then that pictures pass, though none of them is a sample."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._last_s = time.monotonic()

    def see_picture(self) -> None:
        if time.monotonic() - self._last_s > _ALIVE_EVERY_S:
            self._last_s = time.monotonic()
            write_message(self._pipe, {"kind": "alive"})


def _send(reader: VideoReader, pipe: IO[bytes]) -> None:
    for sample in reader:
        head, planes = pack_sample(sample)
        write_message(pipe, head | {"kind": "sample"} | _books(reader), planes)
    write_message(pipe, {"kind": "end"} | _books(reader))


def _books(reader: VideoReader) -> Head:
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
