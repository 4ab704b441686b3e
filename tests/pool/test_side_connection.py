"""The connection beside the pool: it never waits behind it, and has one user at a time."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import DataFault, Unavailable
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection


async def test_the_side_connection_works_while_the_pool_is_exhausted(database: PoolConfig) -> None:
    """It does not queue behind what it reports on; its purpose stands in its name."""
    narrow = replace(database, max_size=1)
    pool, side = await Pool.open(narrow), SideConnection(narrow, "stats")
    async with pool.acquire(), side.use() as connection:
        assert "tests:stats" == await connection.fetchval("SHOW application_name")
    await side.close()
    await pool.close()


async def test_the_side_connection_is_opened_once(database: PoolConfig) -> None:
    """It is opened at its first use."""
    side = SideConnection(database, "stats")
    pids: set[int] = set()
    for _ in range(3):
        async with side.use() as connection:
            pids.add(await connection.fetchval("SELECT pg_backend_pid()"))
    assert 1 == len(pids)
    await side.close()


async def test_the_side_connection_is_opened_anew_after_it_was_lost(database: PoolConfig, connection: Any) -> None:
    """One caller may meet the end of the old one; the next gets a new one."""
    side = SideConnection(database, "stats")
    async with side.use() as used:
        pid = await used.fetchval("SELECT pg_backend_pid()")
    await connection.execute("SELECT pg_terminate_backend($1, 5000)", pid)
    try:
        async with side.use() as used:
            await used.fetchval("SELECT 1")
    except Unavailable:
        pass
    async with side.use() as used:
        assert pid != await used.fetchval("SELECT pg_backend_pid()")
    await side.close()


async def test_the_side_connection_is_not_reused_after_an_error(database: PoolConfig) -> None:
    """Nobody knows what state an error left it in."""
    side = SideConnection(database, "stats")
    pids: list[int] = []

    async def divide() -> None:
        async with side.use() as used:
            pids.append(await used.fetchval("SELECT pg_backend_pid()"))
            await used.execute("SELECT 1 / 0")

    with pytest.raises(DataFault):
        await divide()
    async with side.use() as used:
        assert pids[0] != await used.fetchval("SELECT pg_backend_pid()")
    await side.close()


async def test_the_side_connection_has_one_user_at_a_time(database: PoolConfig) -> None:
    """The recorder and the pruner share it."""
    side = SideConnection(database, "stats")

    async def use() -> int:
        async with side.use() as used:
            return await used.fetchval("SELECT 1 FROM pg_sleep(0.01)")

    assert [1] * 5 == await asyncio.gather(*(use() for _ in range(5)))
    await side.close()
