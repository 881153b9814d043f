"""A loop that is kept busy is seen to be late, and forgiven."""

from __future__ import annotations

import asyncio
import time

from serving.http.loop_lag import LoopLag


def test_sees_a_busy_loop_and_forgets_it() -> None:
    async def main() -> tuple[float, float]:
        lag = LoopLag()
        task = asyncio.create_task(lag.run())
        await asyncio.sleep(0.05)
        time.sleep(0.4)
        await asyncio.sleep(0.05)
        seen = lag.seconds()
        deadline = time.monotonic() + 20
        while lag.seconds() > seen / 4 and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        task.cancel()
        return seen, lag.seconds()

    seen, later = asyncio.run(main())
    assert seen > 0.3
    assert later <= seen / 4
