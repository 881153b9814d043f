"""Both clients behind one call, so that every test of the one is a test of the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from serving.client import AsyncClient, Client

CallClient = Callable[..., Any]
"""call(url, method, *arguments, client={...}, **options): the method's result, from a client made for it."""


def call_sync(url: str, method: str, *arguments: Any, client: dict[str, Any] | None = None, **options: Any) -> Any:
    with Client(url, **(client or {})) as made:
        return getattr(made, method)(*arguments, **options)


def call_async(url: str, method: str, *arguments: Any, client: dict[str, Any] | None = None, **options: Any) -> Any:
    async def call() -> Any:
        async with AsyncClient(url, **(client or {})) as made:
            return await getattr(made, method)(*arguments, **options)

    return asyncio.run(call())


CLIENTS: dict[str, CallClient] = {"sync": call_sync, "async": call_async}
