"""The connections of a pool: opened alike, counted, and each end with its reason."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from waiting import until

from tidepool.pool.config import PoolConfig
from tidepool.pool.connections import PoolConnections
from tidepool.pool.faults import Refused, Unavailable
from tidepool.pool.figures import PoolStats
from tidepool.pool.pool import Pool


async def setting(connection: Any, name: str) -> str:
    """Return a session setting as the server shows it."""
    return await connection.fetchval(f"SHOW {name}")


async def test_every_connection_has_the_same_session(database: PoolConfig) -> None:
    """Set by the start-up packet: time zone, name, limits."""
    pool = await Pool.open(replace(database, application_name="tidepool:x", command_timeout_s=10, min_size=2))
    async with pool.acquire() as one, pool.acquire() as two:
        for connection in (one, two):
            assert "UTC" == await setting(connection, "timezone")
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


async def test_a_transaction_ends_whose_client_stopped_in_the_middle_of_sending(
    database: PoolConfig, connection: Any
) -> None:
    """Such as a worker that is paused: its locks would be held for as long as it sleeps."""
    pool = await Pool.open(replace(database, transaction_timeout_s=0.3))
    with pytest.raises(Unavailable):  # by the commit, as the connection is gone
        await _stop_in_the_middle(pool, connection)
    await pool.close()
    assert 1 == await connection.fetchval("SELECT count(*) FROM users")


async def _stop_in_the_middle(pool: Pool, connection: Any) -> None:
    async with asyncio.timeout(20), pool.transaction() as lent:
        await lent.execute("INSERT INTO users (username, email, full_name) VALUES ('ada', 'a@x', 'Ada')")
        sleeper: Any = lent
        sleeper._transport.write(b"Q" + (1000).to_bytes(4, "big") + b"SELECT")
        await connection.execute("INSERT INTO users (username, email, full_name) VALUES ('ada', 'a@x', 'Ada')")
        with suppress(asyncpg.InterfaceError):  # it may have heard of its end already
            sleeper.terminate()


async def test_a_password_is_in_no_repr_of_the_configuration() -> None:
    """It travels in the URL."""
    assert "hunter2" not in repr(PoolConfig(url="postgresql://ada:hunter2@h/d", application_name="x"))


async def test_a_server_that_is_not_there_is_unavailable(database: PoolConfig) -> None:
    """At the start, and for a connection beside the pool."""
    away = replace(database, url="postgresql://postgres@/tidepool?host=/nowhere&port=5432")
    with pytest.raises(Unavailable):
        await Pool.open(away)
    with pytest.raises(Unavailable):
        await away.connect("test")


async def test_a_database_that_is_not_there_is_refused(database: PoolConfig) -> None:
    """Waiting cannot help."""
    name = urlsplit(database.url)._replace(path="/nothing").geturl()
    with pytest.raises(Refused, match='database "nothing" does not exist'):
        await Pool.open(replace(database, url=name))


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


class FakeConnection:
    """A connection whose server began at *began* and, if it is silent, answers nothing."""

    def __init__(self, began: int, *, silent: bool = False) -> None:
        self._began = began
        self._silent = silent
        self.was_cut = False

    def get_server_version(self) -> tuple[int, ...]:
        """Return one that cannot bound its transactions."""
        return (16,)

    def get_server_pid(self) -> int:
        """Return a number."""
        return id(self)

    async def fetchval(self, _query: str) -> int:
        """Tell when the server began."""
        if self._silent:
            await asyncio.Event().wait()
        return self._began

    def terminate(self) -> None:
        """Note it."""
        self.was_cut = True

    def add_query_logger(self, _: Any) -> None:
        """Take no note."""

    add_termination_listener = add_query_logger


def connections_to(monkeypatch: pytest.MonkeyPatch, *fakes: FakeConnection) -> tuple[PoolConnections, PoolStats]:
    """Return the connections of a pool that is given *fakes* one by one, and their figures."""
    given, stats = iter(fakes), PoolStats()

    async def connect(**_: Any) -> FakeConnection:
        return next(given)

    monkeypatch.setattr("asyncpg.connect", connect)
    return PoolConnections(stats, max_inactive_time_s=300, transaction_timeout_s=20), stats


async def test_restarts_of_the_server_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the first start, and each other one once."""
    connections, stats = connections_to(monkeypatch, *(FakeConnection(began) for began in (1, 1, 2, 2, 3)))
    for _ in range(5):
        await connections.connect(timeout=5)
    assert (5, 2) == (stats.connections_opened, stats.database_restarts)


async def test_a_server_that_falls_silent_while_it_is_greeted_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time for connecting includes that, and the connection is not left behind."""
    silent = FakeConnection(1, silent=True)
    connections, stats = connections_to(monkeypatch, silent)
    with pytest.raises(Unavailable, match="TimeoutError"):
        await connections.connect(timeout=0.01)
    assert silent.was_cut
    assert (0, 1) == (stats.connections_opened, stats.connect_timeouts)
