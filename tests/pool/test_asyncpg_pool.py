"""The figures of an application's own pool of asyncpg: they add up to what callers have done, who notice nothing."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from tidepool.pool.application_pool import AsyncpgPool
from tidepool.pool.config import PoolConfig
from tidepool.urls import PostgresUrl


async def pool_of(database: PoolConfig, kind: type[asyncpg.Pool] = asyncpg.Pool, **options: Any) -> asyncpg.Pool:
    """Return a pool of at most two connections on the test's database, or with other *options*."""
    given = {"min_size": 0, "max_size": 2, "max_queries": 50_000, "max_inactive_connection_lifetime": 300.0, **options}
    arguments = PostgresUrl.parse(database.url).driver_arguments()
    defaults = {"loop": None, "connection_class": asyncpg.Connection, "record_class": asyncpg.Record}
    return await kind(**defaults, **given, **arguments)


@pytest.fixture
async def pool(database: PoolConfig) -> AsyncIterator[asyncpg.Pool]:
    """Give a pool of at most two connections."""
    pool = await pool_of(database)
    yield pool
    pool.terminate()


def of(pool: asyncpg.Pool) -> AsyncpgPool:
    """Return what reads the figures of *pool*."""
    observed = AsyncpgPool.of(pool)
    assert observed is not None
    return observed


def assert_idle(observed: AsyncpgPool, size: int) -> None:
    """No connection is in use or waited for, and *size* connections are open."""
    stats = observed.stats
    assert ([], 0, 0, size, size) == (observed.holders(), stats.in_use, stats.waiting, observed.size, observed.idle)
    assert size == stats.connections_opened - stats.connections_closed


async def held(pool: asyncpg.Pool, free: asyncio.Event) -> None:
    """Have a connection until *free* is set."""
    async with pool.acquire():
        await free.wait()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until other tasks have made *condition* true."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_the_figures_are_those_of_the_callers(pool: asyncpg.Pool) -> None:
    """Sizes, checkouts, statements and their errors, and who has a connection."""
    observed = of(pool)
    assert (0, 2, 2, 0, 0) == (observed.min_size, observed.max_size, observed.limit, observed.size, observed.idle)
    async with pool.acquire() as connection:
        assert 2 == await connection.fetchval("SELECT 1 + $1::int", 1)
        with pytest.raises(asyncpg.UndefinedTableError):
            await connection.execute("SELECT FROM nowhere")
        (holder,) = observed.holders()
        assert (connection.get_server_pid(), asyncio.current_task()) == (holder.server_pid, holder.task)
        assert (1, 0, 1) == (observed.size, observed.idle, observed.stats.in_use)
    connection = await pool.acquire()
    assert 1 == observed.stats.in_use
    await pool.release(connection)
    await pool.release(connection)  # as asyncpg allows
    assert_idle(observed, 1)
    stats = observed.stats
    assert (2, 2, 1) == (stats.acquire_requests, stats.acquire_ok, stats.in_use_max)
    await until(lambda: stats.queries > 1)
    assert (2, 1) == (stats.queries, stats.query_errors)
    assert 2 == sum(stats.hold_hist) == sum(stats.wait_hist)


@pytest.mark.parametrize(
    "use",
    [
        lambda pool: pool.fetch("SELECT 1"),
        lambda pool: pool.fetchval("SELECT 1"),
        lambda pool: pool.fetchrow("SELECT 1"),
        lambda pool: pool.execute("SELECT 1"),
        lambda pool: pool.executemany("SELECT $1::int", [(1,), (2,)]),
    ],
    ids=["fetch", "fetchval", "fetchrow", "execute", "executemany"],
)
async def test_the_shortcuts_of_a_pool_are_checkouts(pool: asyncpg.Pool, use: Callable[[Any], Awaitable[Any]]) -> None:
    """Each takes a connection, and gives it back."""
    observed = of(pool)
    for _ in range(3):
        await use(pool)
    assert_idle(observed, 1)
    await until(lambda: observed.stats.queries > 2)
    assert (3, 3) == (observed.stats.acquire_ok, observed.stats.queries)


async def test_saturation_is_seen(pool: asyncpg.Pool) -> None:
    """Two callers have all connections; of three others one gets one, one gives up, and one is cancelled."""
    observed, free = of(pool), asyncio.Event()
    stats = observed.stats
    holders = [asyncio.create_task(held(pool, free)) for _ in range(2)]
    await until(lambda: stats.in_use == 2)
    late, cancelled = (asyncio.create_task(held(pool, free)) for _ in range(2))
    with pytest.raises(TimeoutError):
        await pool.acquire(timeout=0.05)
    assert (2, 2) == (stats.waiting, observed.size)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    free.set()
    await asyncio.gather(late, *holders)
    assert (5, 3, 1, 1, 0) == (
        *(stats.acquire_requests, stats.acquire_ok, stats.acquire_timeouts, stats.acquire_cancelled),
        stats.acquire_errors,
    )
    assert (2, 3) == (stats.in_use_max, stats.waiting_max)
    assert stats.saturated_us > 40_000
    assert stats.wait_us_max > 40_000
    assert stats.waiting_us > 120_000
    assert_idle(observed, 2)


async def test_a_connection_that_ends_is_no_more_in_use(pool: asyncpg.Pool) -> None:
    """Closed by its caller, who may or may not give it back, or by the server; the pool opens another one."""
    observed = of(pool)
    forgotten = await pool.acquire()
    await forgotten.close()
    async with pool.acquire() as connection:
        connection.terminate()
    await until(lambda: observed.stats.connections_closed == 2)
    assert_idle(observed, 0)
    async with pool.acquire() as killed, pool.acquire() as killer:
        await killer.execute(f"SELECT pg_terminate_backend({killed.get_server_pid()}, 5000)")
    await until(lambda: observed.stats.connections_closed == 3)
    assert_idle(observed, 1)
    assert 4 == observed.stats.acquire_ok


async def test_a_closed_pool_raises_what_it_raised_before(pool: asyncpg.Pool) -> None:
    """To close it waits for its callers; from then on each request is an error of asyncpg's."""
    observed, free = of(pool), asyncio.Event()
    holder = asyncio.create_task(held(pool, free))
    await until(lambda: observed.stats.in_use == 1)
    closing = asyncio.create_task(pool.close())
    await until(pool.is_closing)
    with pytest.raises(asyncpg.InterfaceError, match=r"^pool is closing$"):
        await pool.acquire()
    free.set()
    await asyncio.gather(holder, closing)
    with pytest.raises(asyncpg.InterfaceError, match=r"^pool is closed$"):
        await pool.fetch("SELECT 1")
    await until(lambda: observed.stats.connections_closed == 1)
    assert_idle(observed, 0)
    assert (1, 2) == (observed.stats.acquire_ok, observed.stats.acquire_errors)


async def test_a_server_that_refuses_is_an_error_of_the_callers(database: PoolConfig) -> None:
    """As without figures."""
    refused = await pool_of(database, server_settings={"no_such_setting": "1"})
    observed = of(refused)
    with pytest.raises(asyncpg.PostgresError):
        await refused.fetch("SELECT 1")
    assert (1, 0) == (observed.stats.acquire_errors, observed.stats.acquire_ok)
    assert_idle(observed, 0)
    await refused.close()


class TheirPool(asyncpg.Pool):
    """A pool of the application's own, whose `acquire` has another parameter."""

    given: tuple[object, ...] = ()

    def acquire(self, label: str = "", *, timeout: float | None = None) -> Any:
        """Note the label."""
        self.given += (label,)
        return super().acquire(timeout=timeout)


async def test_a_pool_of_a_derived_class_works_as_before(database: PoolConfig) -> None:
    """With what its methods take, and by the name of its class."""
    pool = await pool_of(database, TheirPool)
    kind = repr(type(pool))
    observed = of(pool)
    async with pool.acquire("by the way"):  # type: ignore[call-arg]
        assert 1 == observed.stats.in_use
    assert isinstance(pool, TheirPool)
    assert (("by the way",), kind) == (pool.given, repr(type(pool)))
    await pool.close()


class LosingPool(asyncpg.Pool):
    """A pool whose callers get connections that are gone already."""

    async def acquire(self) -> Any:  # type: ignore[override]
        """Return a connection that was given back."""
        connection = await super().acquire()
        await self.release(connection)
        return connection


async def test_a_connection_that_is_lost_on_the_way_is_the_callers_to_notice(database: PoolConfig) -> None:
    """The figures raise no error, and it does not count as in use."""
    pool = await pool_of(database, LosingPool)
    observed = of(pool)
    connection = await pool.acquire()
    with pytest.raises(asyncpg.InterfaceError, match="released back to the pool"):
        await connection.execute("SELECT 1")
    assert ([], 0, 1) == (observed.holders(), observed.stats.in_use, observed.stats.acquire_ok)
    await pool.close()


async def test_a_pool_has_one_that_ends_with_it(database: PoolConfig) -> None:
    """However many workers ask for it, each checkout is counted once."""
    pool = await pool_of(database, min_size=1)
    observed = of(pool)
    for _ in range(1100):
        assert observed is AsyncpgPool.of(pool)
    await pool.execute("SELECT 1")
    assert (1, 1) == (observed.stats.acquire_ok, observed.stats.in_use_max)
    await pool.close()
    ended = weakref.ref(observed)
    del pool, observed
    await asyncio.sleep(0)
    gc.collect()
    assert ended() is None


def test_anything_else_is_no_pool_of_asyncpgs() -> None:
    """Such as a connection."""
    assert AsyncpgPool.of(object()) is None
