"""The pool: fair, waits with a deadline, counts what happens, and closes in time."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from waiting import until

from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import PoolClosed, PoolTimeout
from tidepool.pool.pool import Pool

_BACKENDS: Any = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shrinking'"


@pytest.fixture
def narrow(database: PoolConfig) -> PoolConfig:
    """Give the configuration of a pool of one whose callers wait for a tenth of a second."""
    return replace(database, max_size=1, acquire_timeout_s=0.1)


async def test_a_full_pool_says_how_full_it_is(narrow: PoolConfig) -> None:
    """How long the wait was, size, idle, in use, waiting: what one needs to choose a size."""
    pool = await Pool.open(narrow)
    async with pool.acquire():
        with pytest.raises(
            PoolTimeout, match=r"^no connection after 1\d\d ms \(size 1 of 1, idle 0, in use 1, waiting 1\)$"
        ):
            async with pool.acquire():
                pass
    await pool.close()
    assert (2, 1, 1, 0) == (
        pool.stats.acquire_requests,
        pool.stats.acquire_ok,
        pool.stats.acquire_timeouts,
        pool.stats.acquire_errors,
    )


async def test_figures_of_a_sequence_of_uses(database: PoolConfig) -> None:
    """Two at a time, three queries, one of them wrong."""
    pool = await Pool.open(replace(database, max_size=2))
    async with pool.acquire() as one, pool.acquire() as two:
        await one.execute("SELECT 1")
        await two.execute("SELECT pg_sleep(0.02)")
        with pytest.raises(Exception, match="division by zero"):
            await one.execute("SELECT 1 / 0")
        assert (2, 2, 0) == (pool.stats.in_use, pool.size, pool.idle)
    assert (0, 2, 2) == (pool.stats.in_use, pool.size, pool.idle)
    figures = pool.stats.figures()
    await pool.close()
    assert figures["hold_us_sum"] >= figures["hold_us_max"] >= 20_000
    assert figures["in_use_us"] == pytest.approx(figures["hold_us_sum"], rel=0.05)  # Little's law, on our own figures
    assert figures["query_us_sum"] >= 20_000
    assert figures["connect_us_sum"] >= figures["connect_us_max"] > 0
    assert (2, 2, 3) == (sum(figures["wait_hist"]), sum(figures["hold_hist"]), sum(figures["query_hist"]))
    expected = {
        "in_use_max": 2,
        "acquire_requests": 2,
        "acquire_ok": 2,
        "connections_opened": 2,
        "queries": 3,
        "query_errors": 1,
    }
    durations = {name for name in figures if name.endswith(("_us", "_us_sum", "_us_max", "_hist"))}
    assert expected == {name: value for name, value in figures.items() if value and name not in durations}
    assert (2, 2) == (pool.stats.connections_closed, pool.stats.closed_shutdown)


async def test_waiting_is_counted_while_it_lasts(narrow: PoolConfig) -> None:
    """Its time is counted when it is over; a caller that gives up is no waiter any more."""
    pool = await Pool.open(replace(narrow, acquire_timeout_s=10))

    async def use() -> None:
        async with pool.acquire():
            pass

    async with pool.acquire() as connection:
        waiters = [asyncio.create_task(use()) for _ in range(3)]
        await asyncio.sleep(0)
        assert 3 == pool.stats.waiting
        waiters[0].cancel()
        await asyncio.wait([waiters[0]])
        assert 2 == pool.stats.waiting
        await connection.execute("SELECT pg_sleep(0.02)")
    await asyncio.gather(*waiters[1:])
    await pool.close()
    assert (0, 3) == (pool.stats.waiting, pool.stats.waiting_max)
    assert pool.stats.wait_us_max >= 20_000


async def test_a_transaction_commits_or_rolls_back(pool: Pool, connection: Any) -> None:
    """By how its block is left."""
    insert: Any = "INSERT INTO users (username, email, full_name) VALUES ($1, $1, 'x')"
    async with pool.transaction() as transaction:
        await transaction.execute(insert, "ada")

    async def change_of_mind() -> None:
        async with pool.transaction() as transaction:
            await transaction.execute(insert, "eve")
            raise KeyError

    with pytest.raises(KeyError):
        await change_of_mind()
    assert [("ada",)] == [tuple(row) for row in await connection.fetch("SELECT username FROM users")]


async def test_a_connection_comes_back_clean(narrow: PoolConfig, connection: Any) -> None:
    """A transaction that was left open inside the block is rolled back before the next caller gets the connection."""
    pool = await Pool.open(narrow)
    async with pool.acquire() as lent:
        await lent.execute("BEGIN")
        await lent.execute("CREATE TABLE left_behind ()")
    open_transactions = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
    assert 0 == await connection.fetchval(open_transactions)
    async with pool.acquire() as lent:
        assert await lent.fetchval("SELECT to_regclass('left_behind')") is None
    await pool.close()


async def test_a_check_tells_the_time_of_a_round_trip(pool: Pool) -> None:
    """In milliseconds."""
    assert 0 < await pool.check() < 5000


async def test_closing_does_not_wait_for_ever_for_a_connection_in_use(
    database: PoolConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time it cuts what is left."""
    monkeypatch.setattr("tidepool.pool.pool._CLOSE_TIMEOUT_S", 0.1)
    pool = await Pool.open(database)
    async with pool.acquire() as connection:
        async with asyncio.timeout(5):
            await pool.close()
        with pytest.raises(Exception, match=r"closed|released"):
            await connection.execute("SELECT 1")
    with pytest.raises(PoolClosed):
        async with pool.acquire():
            pass


async def test_waiting_is_fair_and_bounded_and_counted_apart(narrow: PoolConfig) -> None:
    """One waits and gets it, one gives up, one is cancelled, one is refused: each has a counter of its own."""
    pool = await Pool.open(replace(narrow, max_waiting=2, acquire_timeout_s=0.05))

    async def use() -> None:
        async with pool.acquire():
            pass

    async with pool.acquire():
        late, cancelled = asyncio.create_task(use()), asyncio.create_task(use())
        await asyncio.sleep(0)
        with pytest.raises(PoolTimeout, match="too many wait"):
            await use()
        cancelled.cancel()
        with pytest.raises(PoolTimeout, match="no connection after"):
            await late
        lucky = asyncio.create_task(use())
        await asyncio.sleep(0)
    await lucky
    await pool.close()
    stats = pool.stats
    counters = (stats.acquire_timeouts, stats.acquire_cancelled, stats.acquire_rejected, stats.acquire_waited)
    assert (1, 1, 1, 1) == counters
    assert (5, 2) == (stats.acquire_requests, stats.acquire_ok)
    assert stats.waiting_us >= stats.saturated_us >= 50_000


async def test_the_limit_can_be_changed_while_the_pool_is_in_use(database: PoolConfig) -> None:
    """Down to one and up again, never beyond what was opened for."""
    pool = await Pool.open(replace(database, max_size=2, acquire_timeout_s=0.05))
    pool.limit = 1
    async with pool.acquire():
        with pytest.raises(PoolTimeout):
            async with pool.acquire():
                pass
        pool.limit = 99
        async with pool.acquire():
            assert (2, 2) == (pool.limit, pool.stats.in_use)
    await pool.close()


async def test_a_lowered_limit_closes_idle_connections(database: PoolConfig, connection: Any) -> None:
    """At once, on the server, too; the pool serves with those that are left, and opens more when it may again."""
    pool = await Pool.open(replace(database, min_size=4, application_name="shrinking"))
    assert (4, 4) == (pool.size, await backends(connection))
    pool.limit = 1
    await until(lambda: has_connections(pool, 1))
    assert (1, 1) == (pool.size, await backends(connection))
    assert await pool.check() > 0
    pool.limit = 3
    async with pool.acquire(), pool.acquire(), pool.acquire():
        assert (3, 3) == (pool.size, pool.connections)
    await pool.close()
    assert (3, 0, 3) == (pool.stats.closed_surplus, pool.stats.closed_lost_idle, pool.stats.closed_shutdown)


async def test_a_lowered_limit_closes_connections_in_use_when_they_come_back(
    database: PoolConfig, connection: Any
) -> None:
    """Checked-out connections are kept; those that come back above the limit are closed, in a transaction or not."""
    pool = await Pool.open(replace(database, application_name="shrinking"))
    async with pool.acquire() as kept:
        async with pool.acquire() as left, pool.transaction():
            await left.execute("BEGIN")
            pool.limit = 1
            assert 3 == await kept.fetchval(_BACKENDS)
        await until(lambda: has_connections(pool, 1))
        assert (1, 1) == (pool.size, await backends(connection))
        assert 1 == await kept.fetchval("SELECT 1")
    assert (1, 1) == (pool.size, pool.idle)
    await pool.close()
    assert (2, 0) == (pool.stats.closed_surplus, pool.stats.closed_lost_in_use)


async def test_idle_connections_and_those_that_come_back_are_closed_side_by_side(database: PoolConfig) -> None:
    """What is given back at the very moment when the limit goes down is seen, too: once, it stayed for good."""
    pool = await Pool.open(replace(database, min_size=8, max_size=8))
    for _ in range(5):
        pool.limit = 8
        async with AsyncExitStack() as used:
            for _ in range(8):
                await used.enter_async_context(pool.acquire())
        users = [asyncio.create_task(use_briefly(pool)) for _ in range(5)]
        await asyncio.sleep(0.005)
        pool.limit = 2
        await asyncio.gather(*users)
        await until(lambda: has_connections(pool, 2))
    await pool.close()


async def use_briefly(pool: Pool) -> None:
    """Have a connection for a moment."""
    async with pool.acquire() as connection:
        await connection.execute("SELECT pg_sleep(0.01)")


async def test_a_pool_may_be_opened_with_a_low_limit(database: PoolConfig) -> None:
    """It opens no more than that, whatever its least size is, and none anew that it has closed."""
    pool = await Pool.open(replace(database, min_size=4), limit=2)
    assert (2, 2, 2) == (pool.limit, pool.size, pool.connections)
    pool.limit = 1
    await until(lambda: has_connections(pool, 1))
    assert await pool.check() > 0
    assert (1, 2, 1) == (pool.size, pool.stats.connections_opened, pool.stats.closed_surplus)
    await pool.close()


async def has_connections(pool: Pool, count: int) -> bool:
    """Return whether the pool has so many connections."""
    return pool.connections == count


async def backends(connection: Any) -> int:
    """Return how many connections the server has for the pool called shrinking."""
    return await connection.fetchval(_BACKENDS)


async def test_the_holder_of_a_connection_is_reported(database: PoolConfig) -> None:
    """The task, where it asked, and which process of the server it has: what one needs to find a leak."""
    pool = await Pool.open(database)
    assert [] == pool.holders()
    async with pool.acquire() as first, pool.transaction():
        one, two = pool.holders()
        assert one.us >= two.us >= 0
        assert one.server_pid == await first.fetchval("SELECT pg_backend_pid()")
        for holder in (one, two):
            assert holder.where.startswith("test_the_holder_of_a_connection_is_reported:")
    assert [] == pool.holders()
    await pool.close()
