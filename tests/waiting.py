"""Waiting for what another task, process or server does, with a deadline."""

import asyncio
from collections.abc import Awaitable, Callable

_WAIT_S = 20.0


async def until(condition: Callable[[], Awaitable[object]], *, wait_s: float = _WAIT_S) -> None:
    """Wait until *condition* is true; raises `TimeoutError`. For what tells nobody when it happens."""
    async with asyncio.timeout(wait_s):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)
