"""The connection pool of one process: a facade over asyncpg's that waits with a deadline and counts.

`worker.main` opens it at startup and closes it at shutdown; the ledger is its main user; the health
package reads `stats`. Every connection gets the same session settings from the server's start-up
packet, so nothing has to be set, or reset, on a connection later.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Self, cast

import asyncpg

from worker.db.connection import Connection
from worker.db.faults import PoolClosed, PoolTimeout, translated

_CLOSE_TIMEOUT_S = 10.0
_BOUNDS_TRANSACTIONS = (17,)
"""The first version that ends a transaction that takes too long. Nothing else ends that of a worker which stopped in
the middle of sending a query: it is not idle in its transaction, and no statement of it runs."""
_NAME_BYTES = 63
"""PostgreSQL cuts an application name here, and warns."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """How a pool is opened; durations in seconds. Each is the setting of the same name."""

    url: str = field(repr=False)
    application_name: str
    min_size: int = 1
    max_size: int = 4
    max_queries: int = 50_000
    max_inactive_time_s: float = 300.0
    acquire_timeout_s: float = 10.0
    command_timeout_s: float = 10.0
    connect_timeout_s: float = 5.0
    transaction_timeout_s: float = 20.0


@dataclass(slots=True)
class PoolStats:
    """What one process's pool did since it was opened.

    Gauges are one moment's reading and need not add up. Counters and sums only grow; durations are
    microseconds. The `_max` peaks are of the time since `figures` was last called.
    """

    in_use: int = 0
    in_use_max: int = 0
    waiting: int = 0
    waiting_max: int = 0
    acquire_requests: int = 0
    acquire_ok: int = 0
    acquire_timeouts: int = 0
    acquire_errors: int = 0
    wait_us_sum: int = 0
    wait_us_max: int = 0
    hold_us_sum: int = 0
    hold_us_max: int = 0
    connections_opened: int = 0
    connections_closed: int = 0
    queries: int = 0
    query_errors: int = 0
    query_us_sum: int = 0

    def figures(self) -> dict[str, int]:
        """Return every figure by name, and begin new peaks at the present readings."""
        figures = asdict(self)
        self.in_use_max, self.waiting_max, self.wait_us_max, self.hold_us_max = self.in_use, self.waiting, 0, 0
        return figures


class Pool:
    """The pool. Open it with `Pool.open`; raises `Unavailable` or `PoolTimeout` where the server or the pool fails."""

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self.stats = PoolStats()
        self._pool: Any = asyncpg.create_pool(
            config.url,
            min_size=config.min_size,
            max_size=config.max_size,
            max_queries=config.max_queries,
            max_inactive_connection_lifetime=config.max_inactive_time_s,
            init=self._opened,
            reset=_nothing_to_reset,
            **_connect_options(config),
        )

    @classmethod
    async def open(cls, config: PoolConfig) -> Self:
        """Open a pool with its least number of connections. Raises `Unavailable`."""
        pool = cls(config)
        async with translated():
            await pool._pool
        return pool

    @property
    def size(self) -> int:
        """Connections open now."""
        return cast("int", self._pool.get_size())

    @property
    def idle(self) -> int:
        """Connections open and not in use now."""
        return cast("int", self._pool.get_idle_size())

    @asynccontextmanager
    async def acquire(self) -> AsyncGenerator[Connection]:
        """Lend a connection, waiting at most the acquire timeout.

        Raises `PoolTimeout` when none became free, `Unavailable` when the server is away; inside the
        block, errors of the database come out as `worker.db.faults`.
        """
        async with translated():
            connection = await self._wait_for_connection()
            since = time.perf_counter_ns()
            self.stats.in_use += 1
            self.stats.in_use_max = max(self.stats.in_use_max, self.stats.in_use)
            try:
                yield connection
            finally:
                await self._give_back(connection, since)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """Lend a connection inside a transaction: commits on a clean exit, rolls back on any exception."""
        async with self.acquire() as connection, connection.transaction():
            yield connection

    async def check(self) -> float:
        """Return the milliseconds that a round trip took, for health checks. Raises as `acquire`."""
        since = time.perf_counter_ns()
        async with self.acquire() as connection:
            await connection.execute("SELECT 1")
        return (time.perf_counter_ns() - since) / 1e6

    async def close(self) -> None:
        """Close every connection; those still in use after 10 seconds are cut."""
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()

    async def _wait_for_connection(self) -> Connection:
        if self._pool.is_closing():
            raise PoolClosed("the pool is closed")
        stats, since = self.stats, time.perf_counter_ns()
        stats.acquire_requests += 1
        stats.waiting += 1
        stats.waiting_max = max(stats.waiting_max, stats.waiting)
        try:
            connection = await self._pool.acquire(timeout=self.config.acquire_timeout_s)
        except TimeoutError:
            stats.acquire_timeouts += 1
            raise PoolTimeout(self._fullness(since)) from None
        except Exception:
            stats.acquire_errors += 1
            raise
        finally:
            stats.waiting -= 1
        waited_us = (time.perf_counter_ns() - since) // 1000
        stats.acquire_ok += 1
        stats.wait_us_sum += waited_us
        stats.wait_us_max = max(stats.wait_us_max, waited_us)
        return cast("Connection", connection)

    async def _give_back(self, connection: Connection, since: int) -> None:
        held_us = (time.perf_counter_ns() - since) // 1000
        self.stats.hold_us_sum += held_us
        self.stats.hold_us_max = max(self.stats.hold_us_max, held_us)
        self.stats.in_use -= 1
        await self._pool.release(connection, timeout=self.config.command_timeout_s)

    def _fullness(self, since: int) -> str:
        waited_ms = (time.perf_counter_ns() - since) // 1_000_000
        return (
            f"no connection after {waited_ms} ms (size {self.size} of {self.config.max_size}, idle {self.idle}, "
            f"in use {self.stats.in_use}, waiting {self.stats.waiting})"
        )

    async def _opened(self, connection: Any) -> None:
        self.stats.connections_opened += 1
        if connection.get_server_version() >= _BOUNDS_TRANSACTIONS:
            timeout_ms = int(self.config.transaction_timeout_s * 1000)
            await connection.execute(f"SET transaction_timeout = {timeout_ms}")
        connection.add_query_logger(self._queried)
        connection.add_termination_listener(self._closed)

    def _closed(self, _connection: Any) -> None:
        self.stats.connections_closed += 1

    def _queried(self, record: Any) -> None:
        self.stats.queries += 1
        self.stats.query_us_sum += int(record.elapsed * 1e6)
        if record.exception is not None:
            self.stats.query_errors += 1


async def connect(config: PoolConfig, purpose: str) -> Any:
    """Open one connection outside the pool, named after its *purpose* on the server. Raises `Unavailable`."""
    options = _connect_options(config)
    options["server_settings"]["application_name"] = f"{config.application_name}:{purpose}"[:_NAME_BYTES]
    async with translated():
        return await asyncpg.connect(config.url, **options)


def _connect_options(config: PoolConfig) -> dict[str, Any]:
    """Return what every connection is opened with.

    The server's statement timeout ends a little before ours, so that a slow statement is cancelled by
    the server, and ours only means that the server does not answer at all.
    """
    statement_timeout_ms = int(config.command_timeout_s * 900)
    return {
        "timeout": config.connect_timeout_s,
        "command_timeout": config.command_timeout_s,
        "server_settings": {
            "application_name": config.application_name[:_NAME_BYTES],
            "timezone": "UTC",
            "search_path": "public",
            "statement_timeout": str(statement_timeout_ms),
            "idle_in_transaction_session_timeout": str(statement_timeout_ms),
            "jit": "off",  # never pays for statements this short, and slows the first one of a connection
        },
    }


async def _nothing_to_reset(_connection: Any) -> None:
    """Spare a round trip a release: asyncpg rolls back by itself, and no session state is ever set."""
