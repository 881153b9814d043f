"""A running service follows the default in `models/index.json`.

Each worker looks at the file's stamp every few seconds. If another default stands there, it is opened, warmed up
and verified beside the one that serves; then requests go to it, from one to the next. The default before stays
addressable by its version; older ones drain and end. What cannot be opened changes nothing: the log and
`pipeprobe_promotion_failing` say so, and it is tried again, since a pair's files may arrive after the index.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from serving.errors import PipeprobeError
from serving.monitoring.promotion_metrics import PromotionMetrics
from serving.pairs.lanes import Lane, Lanes
from serving.pairs.pair import INDEX_FILE, Pair, load_folder
from serving.pairs.pair_index import read_index

logger = logging.getLogger(__name__)

_FIRST_RETRY_S = 5.0
_LAST_RETRY_S = 300.0

Stamp = tuple[int, int, int]


class IndexWatch:
    """Follows `models/index.json` for one worker.

    Args:
        open_lane: opens, warms up and verifies a pair; runs in a thread, and may take seconds.
        closed: told of a lane that has ended.
        every_s: seconds between two looks.
        keep: how many defaults of before stay addressable.
    """

    def __init__(
        self,
        models: Path,
        lanes: Lanes,
        *,
        open_lane: Callable[[Pair], Lane],
        closed: Callable[[Lane], None],
        metrics: PromotionMetrics,
        every_s: float,
        keep: int,
    ) -> None:
        self._models = models
        self._lanes = lanes
        self._open_lane = open_lane
        self._closed = closed
        self._metrics = metrics
        self._every_s = every_s
        self._keep = keep
        self._earlier: list[Lane] = []
        self._draining: set[asyncio.Task[None]] = set()
        self._seen: Stamp | None = None
        self._retry_at = 0.0
        self._retry_s = _FIRST_RETRY_S

    async def run(self) -> None:
        """Look for ever; cancel it to end it."""
        while True:
            await asyncio.sleep(self._every_s)
            await self._look()

    async def _look(self) -> None:
        stamp = await asyncio.to_thread(stamp_of, self._models / INDEX_FILE)
        is_new = stamp is not None and stamp != self._seen
        is_due = 0 < self._retry_at <= time.monotonic()
        if not is_new and not is_due:
            return
        self._retry_s = _FIRST_RETRY_S if is_new else min(2 * self._retry_s, _LAST_RETRY_S)
        self._seen, self._retry_at = stamp, 0.0
        before = self._lanes.default
        try:
            await self._follow()
        except Exception as error:
            # Also what nobody foresaw, such as too little memory for two sessions: it must not end the watch.
            self._retry_at = time.monotonic() + self._retry_s
            self._metrics.failed()
            logger.error(
                "the default that models/index.json names cannot be served: %s; %s %s goes on serving, and it is "
                "tried again in %g s",
                error or type(error).__name__,
                before.name,
                before.version,
                self._retry_s,
                exc_info=None if isinstance(error, PipeprobeError) else error,
            )

    async def _follow(self) -> None:
        folder = (await asyncio.to_thread(read_index, self._models)).default
        before = self._lanes.default
        if folder == before.folder:
            self._metrics.settled()
            return
        lane = self._lanes.in_folder(folder)
        if lane is None:
            pair = await asyncio.to_thread(load_folder, self._models, folder)
            lane = await asyncio.to_thread(self._open_lane, pair)
            lane.batcher.start()
        self._lanes.make_default(lane)
        self._metrics.promoted()
        self._metrics.serves(lane.name, lane.version, before=(before.name, before.version))
        logger.info("%s %s is the default now; before: %s %s", lane.name, lane.version, before.name, before.version)
        self._retire(lane, before)

    def _retire(self, lane: Lane, before: Lane) -> None:
        """Keep the latest defaults of before addressable, and take the others out of service."""
        self._earlier = [*(earlier for earlier in self._earlier if earlier is not lane), before]
        while len(self._earlier) > self._keep:
            old = self._earlier.pop(0)
            self._lanes.remove(old)
            task = asyncio.create_task(self._end(old))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    async def _end(self, lane: Lane) -> None:
        await lane.drain()
        self._closed(lane)
        logger.info("%s %s has answered its last request and is closed", lane.name, lane.version)

    async def finish(self) -> None:
        """Wait for what drains."""
        await asyncio.gather(*self._draining)


def stamp_of(path: Path) -> Stamp | None:
    """What changes whenever a file is replaced; None if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
