"""The connection pool of one process: asyncpg's pool, behind a queue of callers that is fair, bounded and measured.

`tidepool.lifecycle` opens the pool at startup and closes it at shutdown; the ledger is its main user; `tidepool.health`
reads its `stats`. Every connection gets its session settings when it is opened, so nothing has to be set or reset
later.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import LiteralString, Protocol, Self, cast

import asyncpg

from tidepool.pool.config import PoolConfig
from tidepool.pool.connection import Connection, DirectConnection
from tidepool.pool.connections import COMMIT, Checkout, PoolConnections
from tidepool.pool.faults import PoolClosed, PoolTimeout, Unavailable, translated
from tidepool.pool.figures import PoolStats

_CLOSE_TIMEOUT_S = 10.0
"""Seconds that `close` waits for connections in use: as long as a batch may take by default."""
_CLOSED = "the pool is closed"


class _DriverPool(Protocol):
    """The parts of asyncpg's pool that are used."""

    def __await__(self) -> Generator[object, None, object]: ...
    def get_size(self) -> int: ...
    def get_idle_size(self) -> int: ...
    async def acquire(self) -> DirectConnection: ...
    async def release(self, connection: DirectConnection, *, timeout: float | None = None) -> None: ...  # noqa: ASYNC109
    async def close(self) -> None: ...
    def terminate(self) -> None: ...


class Gate:
    """Decides which callers of a pool may have a connection now: at most *limit* at a time, in order of arrival.

    A caller enters the gate before it gets a connection, and leaves after giving the connection back. At most
    *max_waiting* callers wait to enter. asyncpg's pool has a queue of its own, which reports nothing and cannot be
    bounded or resized. The gate in front of that pool lets no more callers in than the pool has connections, so that
    all waiting happens here, where it is counted.
    """

    def __init__(self, limit: int, *, max_waiting: int) -> None:
        self._limit = limit
        self._max_waiting = max_waiting
        self._inside = 0
        self._queue: dict[asyncio.Future[None], None] = {}
        """The waiting callers in order; a dictionary, because a caller that gives up can be anywhere in it."""
        self._closed = False

    @property
    def limit(self) -> int:
        """The max number of callers that may be inside the gate, and so have a connection, at a time."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        """Change how many callers may be inside the gate.

        A higher limit lets waiting callers in at once; a lower one lets none in until enough have left.
        """
        self._limit = limit
        self._let_in()

    @property
    def waiting(self) -> int:
        """The number of callers that wait for a connection."""
        return len(self._queue)

    def try_enter(self) -> bool:
        """Enter the gate if there is room and no caller waits; return whether that was done.

        If so, the caller must call `leave` later.
        """
        if self._closed or self._queue or self._inside >= self._limit:
            return False
        self._inside += 1
        return True

    async def enter(self, timeout_s: float) -> None:
        """Wait for the caller's turn, and enter the gate. The caller must call `leave` after that.

        Raises `TimeoutError` after *timeout_s* seconds, `asyncio.QueueFull` at once if the max number of callers wait
        already, and `PoolClosed` if the gate is closed, also while the caller waits.
        """
        if self._closed:
            raise PoolClosed(_CLOSED)
        if self.try_enter():
            return
        if len(self._queue) >= self._max_waiting:
            raise asyncio.QueueFull
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue[turn] = None
        try:
            async with asyncio.timeout(timeout_s):
                await turn
        except BaseException:
            if turn in self._queue:
                del self._queue[turn]
            elif turn.done() and not turn.cancelled() and not turn.exception():
                self.leave()  # it was let in at the very moment when it gave up
            raise

    def leave(self) -> None:
        """Leave the gate, and let the next waiting caller in. Call it once after each successful entry."""
        self._inside -= 1
        self._let_in()

    def close(self) -> None:
        """Close the gate for good. Callers that wait or come later get `PoolClosed`; those inside can finish."""
        self._closed = True
        for turn in self._queue:
            if not turn.done():
                turn.set_exception(PoolClosed(_CLOSED))
        self._queue.clear()

    def _let_in(self) -> None:
        while self._queue and self._inside < self._limit:
            turn = next(iter(self._queue))
            del self._queue[turn]
            if not turn.done():  # else its caller was cancelled, and is about to say so
                self._inside += 1
                turn.set_result(None)


class Pool:
    """A pool of connections to PostgreSQL. Create one with `Pool.open`.

    Its methods raise `Unavailable` if the server fails, and `PoolTimeout` if no connection becomes free in time.
    """

    def __init__(self, config: PoolConfig, limit: int | None = None) -> None:
        self.config = config
        self.stats = PoolStats()
        self._gate = Gate(config.max_size if limit is None else limit, max_waiting=config.max_waiting)
        self._connections = PoolConnections(
            self.stats,
            max_inactive_time_s=config.max_inactive_time_s,
            transaction_timeout_s=config.transaction_timeout_s,
        )
        self._checkouts: set[Checkout] = set()
        self._shrinking: asyncio.Task[None] | None = None
        options = config.driver_options(self.limit)
        self._pool = cast("_DriverPool", asyncpg.create_pool(connect=self._connections.connect, **options))

    @classmethod
    async def open(cls, config: PoolConfig, limit: int | None = None) -> Self:
        """Open a pool with `min_size` connections of *config*, or *limit* connections if that is fewer.

        *limit* is the initial value of the property `limit` (default: `max_size`). Raises `Unavailable` and `Refused`.
        """
        pool = cls(config, limit)
        async with translated():
            await pool._pool
        return pool

    @property
    def min_size(self) -> int:
        """The number of connections that are opened at the start."""
        return self.config.min_size

    @property
    def max_size(self) -> int:
        """The max number of connections."""
        return self.config.max_size

    @property
    def overdue_s(self) -> float:
        """Seconds after which a connection that is in use counts as leaked: no transaction may last longer."""
        return self.config.transaction_timeout_s

    @property
    def size(self) -> int:
        """The number of open connections."""
        return self._pool.get_size()

    @property
    def idle(self) -> int:
        """The number of open connections that are not in use."""
        return self._pool.get_idle_size()

    @property
    def connections(self) -> int:
        """How many connections this pool occupies on the PostgreSQL server: open, being opened, or being closed."""
        return self._connections.count

    @property
    def limit(self) -> int:
        """The number of connections that the pool may have open now: `max_size`, or fewer."""
        return self._gate.limit

    @limit.setter
    def limit(self, limit: int) -> None:
        """Change how many connections the pool may have open.

        Surplus connections are closed: idle ones at once, others when they are given back.
        """
        self._gate.limit = min(limit, self.config.max_size)
        self._shrink_soon()

    def holders(self) -> list[Checkout]:
        """Return a `Checkout` for each connection that is in use, with its user and duration; the longest first."""
        return sorted(self._checkouts, key=lambda checkout: checkout.since_ns)

    def acquire(self) -> AbstractAsyncContextManager[Connection]:
        """Lend a connection for an `async with` block, first come, first served; waits up to the acquire timeout.

        Raises `PoolTimeout` if none becomes free in time or too many callers wait, `Unavailable` if the server is away,
        and `PoolClosed`. Inside the block, errors of the driver become those of `tidepool.pool.faults`.
        """
        return Checkout(self._check_out, self._check_in)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """Run an `async with` block in a transaction: commits on a clean exit, rolls back on any exception.

        The connection is lent as by `acquire`, with the same errors. asyncpg's own class of transactions is not used,
        because isolation level and time limit are set in the round trip that begins the transaction.
        """
        async with Checkout(self._check_out, self._check_in) as connection:
            await connection.execute(self._connections.begin)
            try:
                yield connection
            except BaseException:
                await _end(connection, "ROLLBACK")
                raise
            await _end(connection, COMMIT)

    async def check(self) -> float:
        """Test the database: lend a connection, run a trivial query, and return the milliseconds that both took.

        Raises the errors of `acquire`.
        """
        since = time.perf_counter_ns()
        async with self.acquire() as connection:
            await connection.execute("SELECT 1")
        return (time.perf_counter_ns() - since) / 1e6

    async def close(self) -> None:
        """Close the pool and every connection. Connections that are still in use after 10 seconds are cut.

        Callers that wait for a connection get `PoolClosed`.
        """
        self._gate.close()
        self._connections.closing = True
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()

    async def _check_out(self, checkout: Checkout) -> DirectConnection:
        """Wait for the caller's turn, and give the *checkout* its connection.

        asyncpg's pool has an idle connection or opens one, as the gate lets no more callers in than it has connections.
        There is no timeout here, which would cost a timer: opening has its own, and nothing else is waited for.
        """
        self.stats.acquire_requests += 1
        if self._gate.try_enter():
            self.stats.waited(0)
        else:
            await self._wait_for_turn()
        try:
            checkout.connection = connection = await self._pool.acquire()
            checkout.server_pid = self._connections.checked_out(connection)
            checkout.task = asyncio.current_task()
            checkout.since_ns = time.perf_counter_ns()
        except BaseException as error:
            self.stats.acquire_errors += isinstance(error, Exception)
            self._gate.leave()
            raise
        self._checkouts.add(checkout)
        self.stats.acquire_ok += 1
        self.stats.move(in_use=1, now_ns=checkout.since_ns)
        return connection

    async def _wait_for_turn(self) -> None:
        stats, since_ns = self.stats, time.perf_counter_ns()
        stats.move(waiting=1, now_ns=since_ns)
        try:
            await self._gate.enter(self.config.acquire_timeout_s)
        except TimeoutError:
            stats.acquire_timeouts += 1
            raise PoolTimeout(f"no connection after {_ms_since(since_ns)} ms ({self._fullness()})") from None
        except asyncio.QueueFull:
            stats.acquire_rejected += 1
            raise PoolTimeout(f"too many wait for a connection ({self._fullness()})") from None
        except asyncio.CancelledError:
            stats.acquire_cancelled += 1
            raise
        finally:
            turn_ns = time.perf_counter_ns()
            stats.move(waiting=-1, now_ns=turn_ns)
        stats.acquire_waited += 1
        stats.waited((turn_ns - since_ns) // 1000)

    async def _check_in(self, checkout: Checkout) -> None:
        """End the *checkout* and give its connection back to asyncpg's pool, within the command timeout."""
        since_ns = time.perf_counter_ns()
        try:
            self._checkouts.remove(checkout)
            self.stats.held((since_ns - checkout.since_ns) // 1000)
            self.stats.move(in_use=-1, now_ns=since_ns)
            self._connections.checking_in(checkout.connection, checkout.server_pid)
            await self._pool.release(checkout.connection, timeout=self.config.command_timeout_s)
            returned_ns = time.perf_counter_ns()
            self._connections.checked_in(checkout.server_pid, returned_ns)
            self._shrink_soon()
            self.stats.return_us_sum += (returned_ns - since_ns) // 1000
        finally:
            self._gate.leave()

    def _shrink_soon(self) -> None:
        """Start closing idle connections until there are no more than the limit, unless that is under way."""
        if self._connections.kept > self.limit and (self._shrinking is None or self._shrinking.done()):
            self._shrinking = asyncio.create_task(self._shrink(), name="closing surplus connections")

    async def _shrink(self) -> None:
        with suppress(asyncpg.InterfaceError):  # the pool is being closed, and they with it
            while self.idle and self._connections.kept > self.limit:
                connection = await self._pool.acquire()  # an idle one: this waits for nothing
                self._connections.surplus(connection.get_server_pid())
                with suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # it is cut then
                    await connection.close(timeout=self.config.command_timeout_s)
                await self._pool.release(connection)

    def _fullness(self) -> str:
        return (
            f"size {self.size} of {self.config.max_size}, idle {self.idle}, "
            f"in use {self.stats.in_use}, waiting {self.stats.waiting}"
        )


async def _end(connection: DirectConnection, statement: LiteralString) -> None:
    """End a transaction with *statement*: COMMIT or ROLLBACK. Raises `Unavailable` if the connection was lost."""
    try:
        await connection.execute(statement)
    except asyncpg.InterfaceError as error:
        if PoolConnections.has_ended(connection):  # asyncpg says that it was released, which would be a mistake of ours
            raise Unavailable(f"the connection was lost: {error}") from error
        raise


def _ms_since(since_ns: int) -> int:
    return (time.perf_counter_ns() - since_ns) // 1_000_000
