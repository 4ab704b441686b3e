"""The figures of an SQLAlchemy engine's pool: they add up to what callers have done."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as NoConnectionInTime
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from tidepool.pool.config import PoolConfig
from tidepool.sqlalchemy import EnginePool
from tidepool.urls import PostgresUrl


def engine_of(database: PoolConfig, **options: object) -> AsyncEngine:
    """Return an engine of SQLAlchemy on the test's database."""
    return create_async_engine(
        "postgresql+asyncpg://", connect_args=PostgresUrl.parse(database.url).driver_arguments(), **options
    )


@pytest.fixture
async def engine(database: PoolConfig) -> AsyncIterator[AsyncEngine]:
    """Give an engine with at most three connections, whose callers wait for half a second."""
    engine = engine_of(database, pool_size=2, max_overflow=1, pool_timeout=0.5)
    yield engine
    await engine.dispose()


async def test_the_figures_are_those_of_the_callers(engine: AsyncEngine) -> None:
    """Sizes, checkouts, statements, and who has a connection."""
    pool = EnginePool(engine)
    assert (2, 3, 3, 0, 0) == (pool.min_size, pool.max_size, pool.limit, pool.size, pool.idle)
    async with async_sessionmaker(engine)() as session:
        await session.execute(text("SELECT 1"))
        await session.execute(text("SELECT 2"))
        (holder,) = pool.holders()
        assert holder.server_pid > 0
        assert asyncio.current_task() is holder.task
        assert (1, 0, 1) == (pool.size, pool.idle, pool.stats.in_use)
        await session.commit()
    assert [] == pool.holders()
    assert (1, 1, 0) == (pool.size, pool.idle, pool.stats.in_use)
    stats = pool.stats
    assert (1, 1, 0, 1) == (stats.acquire_requests, stats.acquire_ok, stats.waiting, stats.connections_opened)
    assert stats.queries >= 2
    assert 1 == sum(stats.hold_hist) == sum(stats.wait_hist)


async def test_waits_and_timeouts_are_counted(engine: AsyncEngine) -> None:
    """Three callers have all connections; of two others one gets a connection in time."""
    pool, free = EnginePool(engine), asyncio.Event()

    async def hold() -> None:
        async with engine.connect():
            await free.wait()

    holders = [asyncio.create_task(hold()) for _ in range(3)]
    while pool.stats.in_use < 3:
        await asyncio.sleep(0.01)
    with pytest.raises(NoConnectionInTime):
        await engine.connect()
    late = asyncio.create_task(hold())
    while not pool.stats.waiting:
        await asyncio.sleep(0.01)
    free.set()
    await asyncio.gather(late, *holders)
    stats = pool.stats
    assert (5, 4, 1, 0, 0) == (
        *(stats.acquire_requests, stats.acquire_ok, stats.acquire_timeouts),
        *(stats.waiting, stats.in_use),
    )
    assert (3, 3) == (stats.in_use_max, pool.max_size)
    assert stats.saturated_us > 0


async def test_a_disposed_engine_goes_on_being_counted(engine: AsyncEngine) -> None:
    """It has another pool from then on."""
    pool = EnginePool(engine)
    for _ in range(2):
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        await engine.dispose()
    stats = pool.stats
    assert (2, 2, 2, 0) == (stats.acquire_ok, stats.connections_opened, stats.connections_closed, pool.size)


async def test_an_engine_without_a_pool_has_no_limit(database: PoolConfig) -> None:
    """Each use opens a connection of its own."""
    engine = engine_of(database, poolclass=NullPool)
    pool = EnginePool(engine)
    async with engine.connect():
        assert (0, 0, 1) == (pool.min_size, pool.max_size, pool.size)
    assert (0, 1) == (pool.size, pool.stats.connections_closed)
