"""The figures of an SQLAlchemy engine's pool: they add up to what callers have done."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
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
    pool = EnginePool.of(engine)
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
    pool, free = EnginePool.of(engine), asyncio.Event()

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
    pool = EnginePool.of(engine)
    for _ in range(2):
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        await engine.dispose()
    stats = pool.stats
    assert (2, 2, 2, 0) == (stats.acquire_ok, stats.connections_opened, stats.connections_closed, pool.size)


async def test_an_engine_without_a_pool_has_no_limit(database: PoolConfig) -> None:
    """Each use opens a connection of its own."""
    engine = engine_of(database, poolclass=NullPool)
    pool = EnginePool.of(engine)
    async with engine.connect():
        assert (0, 0, 1) == (pool.min_size, pool.max_size, pool.size)
    assert (0, 1) == (pool.size, pool.stats.connections_closed)


async def use(engine: AsyncEngine) -> None:
    """Run a statement over a connection of the pool."""
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))


def assert_idle(pool: EnginePool, size: int) -> None:
    """No connection is in use, and *size* connections are open."""
    stats = pool.stats
    assert ([], 0, size, size) == (pool.holders(), stats.in_use, pool.size, pool.idle)
    assert size == stats.connections_opened - stats.connections_closed


async def test_a_detached_connection_is_no_more_in_use(engine: AsyncEngine) -> None:
    """It belongs to its caller, who closes it, and the pool opens another one."""
    pool = EnginePool.of(engine)
    for _ in range(4):
        async with engine.connect() as connection:
            (await connection.get_raw_connection()).detach()
            assert_idle(pool, 0)
    await use(engine)
    assert_idle(pool, 1)


async def test_an_invalidated_connection_is_no_more_in_use(engine: AsyncEngine) -> None:
    """At once or at its next checkout (soft); its caller may get another one in the same block."""
    pool = EnginePool.of(engine)
    for soft in (False, True, False):
        async with engine.connect() as connection:
            (await connection.get_raw_connection()).invalidate(soft=soft)
        assert_idle(pool, int(soft))
    async with engine.connect() as connection:
        await connection.invalidate()
        assert 0 == pool.stats.in_use
        await connection.rollback()
        await connection.execute(text("SELECT 1"))
        assert 1 == pool.stats.in_use
    assert_idle(pool, 1)


async def test_a_checkout_that_is_refused_is_counted_once(engine: AsyncEngine) -> None:
    """A listener of the application's own finds the connection dead, and SQLAlchemy opens another one."""
    pool, checkouts = EnginePool.of(engine), list[object]()

    @event.listens_for(engine.sync_engine, "checkout")
    def _refuse(connection: object, *_: object) -> None:
        checkouts.append(connection)
        if len(checkouts) % 2:
            raise DisconnectionError

    for _ in range(4):
        await use(engine)
        assert_idle(pool, 1)
    assert (8, 1) == (len(checkouts), pool.stats.in_use_max)


@pytest.mark.parametrize("pre_ping", [True, False])
async def test_connections_that_the_server_has_closed_are_not_in_use(database: PoolConfig, *, pre_ping: bool) -> None:
    """They are noticed before the checkout, or when a statement fails."""
    engine = engine_of(database, pool_pre_ping=pre_ping)
    pool = EnginePool.of(engine)
    for _ in range(3):
        await use(engine)
        async with engine.connect() as other, engine_of(database, poolclass=NullPool).connect() as killer:
            pid = await other.scalar(text("SELECT pg_backend_pid()"))
            await other.rollback()
            await other.close()
            await killer.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))
        if pre_ping:
            await use(engine)
            assert_idle(pool, 1)
        else:
            with pytest.raises(DBAPIError):
                await use(engine)
            assert_idle(pool, 0)
    await engine.dispose()


@pytest.mark.parametrize("close", [True, False])
async def test_a_disposed_pool_takes_its_connections_with_it(engine: AsyncEngine, *, close: bool) -> None:
    """Those that callers have count until they are given back."""
    await use(engine)
    pool = EnginePool.of(engine)
    assert 1 == pool.size
    async with engine.connect() as one, engine.connect() as other:
        drivers = [(await connection.get_raw_connection()).driver_connection for connection in (one, other)]
    assert (2, 2) == (pool.size, pool.idle)
    async with engine.connect():
        await engine.dispose(close=close)
        assert (1, 0, 1) == (pool.size, pool.idle, pool.stats.in_use)
        await use(engine)
        assert (2, 1, 1) == (pool.size, pool.idle, pool.stats.in_use)
    assert (1, 1, 0) == (pool.size, pool.idle, pool.stats.in_use)
    for driver in drivers:
        assert driver is not None
        driver.terminate()


async def test_an_engine_has_one_that_ends_with_it(database: PoolConfig) -> None:
    """However many workers ask for it, each statement is counted once, and no call goes through a thousand others."""
    engine = engine_of(database)
    pool = EnginePool.of(engine)
    for _ in range(1100):
        assert pool is EnginePool.of(engine.execution_options(isolation_level="AUTOCOMMIT"))
    await use(engine)
    assert (1, 1) == (pool.stats.acquire_ok, pool.stats.in_use_max)
    await engine.dispose()
    ended = weakref.ref(pool)
    del engine, pool
    gc.collect()
    assert ended() is None
