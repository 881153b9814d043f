"""The process of one video job: `python -m serving.jobs.worker`, started by `serving.jobs.child`.

It reads an `Order` from its standard input, scores the video as `pipeprobe videos` does, and writes a `Report` to
its standard output now and then and at the end. It ends when its input does, which is when whoever started it
is gone, however that ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

from serving.durable import write_json_atomic
from serving.errors import PipeprobeError
from serving.inspections.video import VideoInfo
from serving.inspections.video_result import VideoResult
from serving.inspections.videos import score_videos
from serving.jobs.messages import Order, Report
from serving.jobs.video_root import resolve_video
from serving.pairs.golden import verify_golden
from serving.pairs.pair import find_pair
from serving.scorer import Scorer

_REPORT_EVERY_S = 0.2
_ORPHANED = 3
_SOONER_TO_GO = 500  # as if it used half of all memory more than it does


def main() -> None:
    # BentoML's supervisor sends this to all descendants of a worker that it stops. What becomes of the job is for the
    # worker to say, which notes it in the table and then ends this process for good.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    reports = _Reports(_own_output())
    order = Order.from_line(_read_line())
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    _stand_back(order.nice)
    try:
        _work(order, reports)
    except PipeprobeError as error:
        reports.end(failure=without_paths(str(error), order))


def _stand_back(nice: int) -> None:
    """Behind live frames for the processors; and if memory runs out, the system is to end this process, not those."""
    os.nice(nice)
    with contextlib.suppress(OSError):  # only Linux has it
        adjustment = Path("/proc/self/oom_score_adj")
        adjustment.write_text(str(min(1000, int(adjustment.read_text()) + _SOONER_TO_GO)))


def without_paths(text: str, order: Order) -> str:
    """A message to callers: the video goes by the name that they gave it, not by where it lies here."""
    for path in (order.video, order.video.resolve()):
        text = text.replace(str(path), order.shown)
    return text.replace(str(order.models), "models").replace(str(order.out), "the results")


def _work(order: Order, reports: _Reports) -> None:
    if order.root is not None:  # a link may have changed since the job was accepted
        resolve_video(order.root, order.shown)
    scorer = Scorer(
        find_pair(order.models, order.pair), device=order.device, variant=order.variant, threads=order.threads
    )
    verify_golden(scorer)
    (result,) = score_videos(
        [order.video],
        order.out,
        scorer,
        order.settings,
        hang_s=order.hang_s,
        on_start=reports.begun,
        on_sample=reports.sampled,
    )
    if result.status == "failed":
        reports.end(failure=without_paths(result.reason, order))
        return
    _show_as(result.folder / "findings.json", order.shown)
    reports.end(summary=_summary(result, order))


def _show_as(findings: Path, shown: str) -> None:
    document = json.loads(findings.read_text(encoding="utf-8"))
    write_json_atomic(findings, document | {"video_path": shown})


def _summary(result: VideoResult, order: Order) -> dict[str, object]:
    values = asdict(result) | {"video": order.shown, "reason": without_paths(result.reason, order)}
    return {name: value for name, value in values.items() if name not in ("status", "folder")}


class _Reports:
    """Progress to the runner; at most a few lines a second."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._latest = Report()
        self._written_s = 0.0

    def begun(self, _video: Path, info: VideoInfo) -> None:
        self._latest = replace(self._latest, duration_s=info.duration_s)
        self._write()

    def sampled(self, _video: Path, time_s: float) -> None:
        self._latest = replace(self._latest, frames=self._latest.frames + 1, reached_s=time_s)
        if time.monotonic() - self._written_s > _REPORT_EVERY_S:
            self._write()

    def end(self, *, summary: dict[str, object] | None = None, failure: str | None = None) -> None:
        self._latest = replace(self._latest, summary=summary, failure=failure)
        self._write()

    def _write(self) -> None:
        self._written_s = time.monotonic()
        line = memoryview(self._latest.to_line())
        while line:
            line = line[os.write(self._descriptor, line) :]


def _own_output() -> int:
    """Standard output for reports alone; whatever else is printed goes to standard error."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return descriptor


def _read_line() -> bytes:
    """A line of standard input, and nothing after it: the rest is for `_end_with_parent`."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            os._exit(_ORPHANED)
        line += byte
    return bytes(line)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    # Not sys.exit: the main thread may be deep inside a decoder. Results are written whole or not at all.
    os._exit(_ORPHANED)


if __name__ == "__main__":
    main()
