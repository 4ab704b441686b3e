"""The pool: waits with a deadline, counts what happens, and closes in time."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from waiting import until

from worker.db.faults import DataFault, PoolClosed, PoolTimeout, Refused, Unavailable
from worker.db.figures import BOUNDS_US, PoolStats
from worker.db.pool import Pool, PoolConfig, connect
from worker.db.side_connection import SideConnection


@pytest.fixture
def narrow(database: PoolConfig) -> PoolConfig:
    """Give the configuration of a pool of one whose callers wait for a tenth of a second."""
    return replace(database, max_size=1, acquire_timeout_s=0.1)


async def setting(connection: Any, name: str) -> str:
    """Return a session setting as the server shows it."""
    return await connection.fetchval(f"SHOW {name}")


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
    """And its time when it is over; a caller that gives up is no waiter any more."""
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


def test_peaks_are_those_since_the_last_figures() -> None:
    """Counters go on, peaks begin anew at the present reading."""
    stats = PoolStats(queries=7)
    stats.move(in_use=4, waiting=9)
    stats.move(in_use=-3, waiting=-7)
    stats.waited(5)
    stats.held(6)
    first, second = stats.figures(), stats.figures()
    peaks = ("in_use_max", "waiting_max", "wait_us_max", "hold_us_max", "queries")
    assert [4, 9, 5, 6, 7] == [first[name] for name in peaks]
    assert [1, 2, 0, 0, 7] == [second[name] for name in peaks]


def test_a_bucket_includes_its_upper_bound() -> None:
    """And what is longer than all of them has one, too."""
    stats = PoolStats()
    for us in (0, BOUNDS_US[0], BOUNDS_US[0] + 1, BOUNDS_US[-1], BOUNDS_US[-1] + 1):
        stats.held(us)
    assert [2, 1, *[0] * 14, 1, 1] == stats.hold_hist


async def test_every_connection_has_the_same_session(database: PoolConfig) -> None:
    """Set by the start-up packet: time zone, search path, name, limits."""
    pool = await Pool.open(replace(database, application_name="tidepool:x", command_timeout_s=10, min_size=2))
    async with pool.acquire() as one, pool.acquire() as two:
        for connection in (one, two):
            assert "UTC" == await setting(connection, "timezone")
            assert "public" == await setting(connection, "search_path")
            assert "tidepool:x" == await setting(connection, "application_name")
            assert "9s" == await setting(connection, "statement_timeout")
            assert "9s" == await setting(connection, "idle_in_transaction_session_timeout")
            assert "off" == await setting(connection, "jit")
    await pool.close()


async def test_a_long_application_name_is_cut_without_a_warning(database: PoolConfig) -> None:
    """PostgreSQL has 63 bytes for it."""
    pool = await Pool.open(replace(database, application_name="x" * 100))
    async with pool.acquire() as connection:
        assert "x" * 63 == await setting(connection, "application_name")
    await pool.close()


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


async def test_a_transaction_ends_whose_client_stopped_in_the_middle_of_sending(
    database: PoolConfig, connection: Any
) -> None:
    """Such as a worker that is paused: its locks would be held for as long as it sleeps."""
    pool = await Pool.open(replace(database, transaction_timeout_s=0.3))
    async with asyncio.timeout(20), pool.acquire() as lent:
        await lent.execute("BEGIN")
        await lent.execute("INSERT INTO users (username, email, full_name) VALUES ('ada', 'a@x', 'Ada')")
        sleeper: Any = lent
        sleeper._transport.write(b"Q" + (1000).to_bytes(4, "big") + b"SELECT")
        await connection.execute("INSERT INTO users (username, email, full_name) VALUES ('ada', 'a@x', 'Ada')")
        with suppress(asyncpg.InterfaceError):  # it may have heard of its end already
            sleeper.terminate()
    await pool.close()


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
    monkeypatch.setattr("worker.db.pool._CLOSE_TIMEOUT_S", 0.1)
    pool = await Pool.open(database)
    async with pool.acquire() as connection:
        async with asyncio.timeout(5):
            await pool.close()
        with pytest.raises(Exception, match=r"closed|released"):
            await connection.execute("SELECT 1")
    with pytest.raises(PoolClosed):
        async with pool.acquire():
            pass


async def test_a_password_is_in_no_repr_of_the_configuration() -> None:
    """It travels in the URL."""
    assert "hunter2" not in repr(PoolConfig(url="postgresql://ada:hunter2@h/d", application_name="x"))


async def test_a_server_that_is_not_there_is_unavailable(database: PoolConfig) -> None:
    """At the start, and for a connection beside the pool."""
    away = replace(database, url="postgresql://postgres@/tidepool?host=/nowhere&port=5432")
    with pytest.raises(Unavailable):
        await Pool.open(away)
    with pytest.raises(Unavailable):
        await connect(away, "test")


async def test_a_database_that_is_not_there_is_refused(database: PoolConfig) -> None:
    """Waiting cannot help."""
    name = urlsplit(database.url)._replace(path="/nothing").geturl()
    with pytest.raises(Refused, match='database "nothing" does not exist'):
        await Pool.open(replace(database, url=name))


async def test_waiting_is_fair_bounded_and_told_apart(narrow: PoolConfig) -> None:
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


async def test_who_holds_a_connection_is_told(database: PoolConfig) -> None:
    """The task, where it asked, and which process of the server it has: what one needs to find a leak."""
    pool = await Pool.open(database)
    assert [] == pool.holders()
    async with pool.acquire() as first, pool.transaction():
        one, two = pool.holders()
        assert one.us >= two.us >= 0
        assert one.server_pid == await first.fetchval("SELECT pg_backend_pid()")
        for holder in (one, two):
            assert holder.where.startswith("test_who_holds_a_connection_is_told:")
    assert [] == pool.holders()
    await pool.close()


async def test_why_connections_ended_is_counted(database: PoolConfig, connection: Any) -> None:
    """Idle for too long, used up, cut while idle, cut while in use: each ends one."""
    cut = "SELECT pg_terminate_backend($1, 5000)"
    pool = await Pool.open(replace(database, min_size=0, max_size=1, max_inactive_time_s=0.05))
    await pool.check()
    await until(lambda: closed(pool, 1))
    async with pool.acquire() as lent:
        await connection.execute(cut, await lent.fetchval("SELECT pg_backend_pid()"))
        await until(lambda: closed(pool, 2))
    await pool.close()
    assert (1, 1, 0) == (pool.stats.closed_idle, pool.stats.closed_lost_in_use, pool.stats.closed_shutdown)

    pool = await Pool.open(replace(database, min_size=0, max_size=1, max_queries=5))
    while not pool.stats.connections_closed:
        await pool.check()
    async with pool.acquire() as lent:
        pid = await lent.fetchval("SELECT pg_backend_pid()")
    await connection.execute(cut, pid)
    await until(lambda: closed(pool, 2))
    await pool.close()
    assert (1, 1, 0) == (pool.stats.closed_used_up, pool.stats.closed_lost_idle, pool.stats.closed_shutdown)


async def closed(pool: Pool, at_least: int) -> bool:
    """Return whether so many connections of the pool have ended."""
    return pool.stats.connections_closed >= at_least


async def test_errors_of_connecting_are_counted_by_kind(database: PoolConfig) -> None:
    """Nobody listens there."""
    pool = await Pool.open(replace(database, min_size=0, url="postgresql://postgres@/x?host=/nowhere&port=5432"))
    with pytest.raises(Unavailable):
        await pool.check()
    await pool.close()
    assert (1, 1, 0) == (pool.stats.connect_refused, pool.stats.acquire_errors, pool.stats.acquire_ok)


async def test_connections_that_were_cut_are_replaced(database: PoolConfig, connection: Any) -> None:
    """The pool notices, counts, and serves again."""
    pool = await Pool.open(replace(database, min_size=2, max_size=2, application_name="cut"))
    await connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'cut'"
    )

    async def both_noticed() -> bool:
        return pool.stats.connections_closed >= 2

    await until(both_noticed)
    assert await pool.check() > 0
    await pool.close()
    assert pool.stats.connections_opened > 2


async def test_the_side_connection_works_while_the_pool_is_exhausted(narrow: PoolConfig) -> None:
    """It does not queue behind what it reports on; its purpose stands in its name."""
    pool = await Pool.open(narrow)
    side = SideConnection(narrow, "stats")
    async with pool.acquire(), side.use() as connection:
        assert "tests:stats" == await setting(connection, "application_name")
    await side.close()
    await pool.close()


async def test_the_side_connection_is_opened_once(database: PoolConfig) -> None:
    """And not before it is used."""
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
