"""How late the event loop is: what a request has waited for before any of our code saw it.

Where processor time is short, the loop's thread gets no more of it than each decoding or scoring thread. It then
falls behind, and requests wait in sockets, where no length of a queue shows them. Admission takes the lag off the time
that a frame may wait: whatever is refused leaves the processor to the loop, which catches up.
"""

from __future__ import annotations

import asyncio
import time

_PERIOD_S = 0.02
# A lag is forgotten by half in some 0.3 s, so that one period without any does not open the door again.
_FADING = 0.95


class LoopLag:
    """Measures the running event loop while `run` runs."""

    def __init__(self) -> None:
        self._lag_s = 0.0

    def seconds(self) -> float:
        """The largest delay of a turn of the loop, of late."""
        return self._lag_s

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            slept_at = time.perf_counter()
            await asyncio.sleep(_PERIOD_S)
            late_s = time.perf_counter() - slept_at - _PERIOD_S
            self._lag_s = max(late_s, _FADING * self._lag_s)
