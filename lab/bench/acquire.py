"""Measures how long it takes to acquire and release a connection, with asyncpg's pool and with this project's pool.

The two take turns, and there is only one caller.
"""

import functools
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import asyncpg

from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import translated
from tidepool.pool.pool import Pool

_TURNS, _ACQUIRES = 100, 200


async def acquire_us(config: PoolConfig) -> dict[str, float]:
    """Return the microseconds of one acquire and release, by pool (`asyncpg`, `tidepool`): medians of 100 turns.

    Both pools have the same options and time limits (asyncpg's release is limited by the timeout of the acquire), and
    neither resets the session, which would be a round trip. The connection is open and nobody else waits, so that the
    figures are the overhead of the pools alone.
    """
    async with AsyncExitStack() as stack:
        ours = await Pool.open(config)
        stack.push_async_callback(ours.close)
        async with translated():
            theirs: Any = await asyncpg.create_pool(**config.driver_options(config.max_size))
        stack.push_async_callback(theirs.close)
        acquires = {
            "asyncpg": functools.partial(theirs.acquire, timeout=config.acquire_timeout_s),
            "tidepool": ours.acquire,
        }
        turns_us: dict[str, list[float]] = {name: [] for name in acquires}
        for _ in range(_TURNS):
            for name, acquire in acquires.items():
                turns_us[name].append(await _turn_us(acquire))
    return {name: statistics.median(turns) for name, turns in turns_us.items()}


async def _turn_us(acquire: Callable[[], AbstractAsyncContextManager[Any]]) -> float:
    begun_s = time.perf_counter()
    for _ in range(_ACQUIRES):
        async with acquire():
            pass
    return (time.perf_counter() - begun_s) * 1e6 / _ACQUIRES
