"""Reads the figures of a connection pool that the application has made itself, for snapshots and `tidepool why`.

`ApplicationPool` counts the checkouts of such a pool, whichever library has made it; `AsyncpgPool` reads asyncpg's.
`tidepool.sqlalchemy` has the one for engines of SQLAlchemy.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

import asyncpg
from asyncpg.connection import LoggedQuery
from asyncpg.pool import PoolAcquireContext, PoolConnectionProxy

from tidepool.pool.figures import PoolStats

_OVERDUE_S = 300.0
_ATTRIBUTE = "tidepool_figures"


@dataclass(frozen=True, slots=True, eq=False)
class _Checkout:
    """A caller that has a connection of the application's pool; `pool.watched.Holder`."""

    server_pid: int
    since_ns: int
    task: "asyncio.Task[object] | None"
    where: str = ""

    @property
    def us(self) -> int:
        return (time.perf_counter_ns() - self.since_ns) // 1000

    @property
    def task_name(self) -> str:
        return self.task.get_name() if self.task else ""


class ApplicationPool:
    """Counts requests, checkouts and statements of a pool. A subclass calls its methods, and reads the pool's sizes."""

    def __init__(self) -> None:
        self.stats = PoolStats()
        self._checkouts: dict[object, _Checkout] = {}

    @property
    def overdue_s(self) -> float:
        """Seconds after which a connection that is in use counts as leaked: five minutes."""
        return _OVERDUE_S

    def holders(self) -> Sequence[_Checkout]:
        """Return who has a connection now, the longest holder first."""
        return sorted(self._checkouts.values(), key=lambda checkout: checkout.since_ns)

    @contextmanager
    def _requested(self, no_connection_in_time: type[Exception]) -> Generator[None]:
        """Count a request for a connection, for a `with` block that ends when the pool has answered it.

        The whole block counts as the wait, and so does the opening of a connection, if there was none.
        """
        stats, since_ns = self.stats, time.perf_counter_ns()
        stats.acquire_requests += 1
        stats.move(waiting=1, now_ns=since_ns)
        try:
            yield
        except BaseException as error:
            stats.acquire_timeouts += isinstance(error, no_connection_in_time)
            stats.acquire_cancelled += isinstance(error, asyncio.CancelledError)
            stats.acquire_errors += isinstance(error, Exception) and not isinstance(error, no_connection_in_time)
            raise
        finally:
            stats.move(waiting=-1)
        stats.acquire_ok += 1
        stats.waited((time.perf_counter_ns() - since_ns) // 1000)

    def _check_out(self, connection: object, server_pid: int) -> None:
        """Count a *connection* that the caller has got."""
        now_ns = time.perf_counter_ns()
        self._checkouts[connection] = _Checkout(server_pid, now_ns, _current_task())
        self.stats.move(in_use=1, now_ns=now_ns)

    def _check_in(self, connection: object) -> None:
        """Count a *connection* that the caller has given back or lost; does nothing if it has been counted."""
        checkout = self._checkouts.pop(connection, None)
        if checkout is not None:
            self.stats.held(checkout.us)
            self.stats.move(in_use=-1)


def _current_task() -> "asyncio.Task[object] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None  # a synchronous engine, in a thread


class AsyncpgPool(ApplicationPool):
    """An `asyncpg.Pool`, as a `pool.watched.WatchedPool`. Its counters begin when it is made, by `of`.

    asyncpg reports the end of a connection and each statement, but no checkout, and the methods of a pool cannot be
    replaced (`__slots__`). So the pool gets a class that is derived from its own one and wraps the two methods that all
    uses go through, `acquire` and `release`. A connection counts as opened when it is lent for the first time. The
    reset of a connection that is given back counts neither as a part of its use nor as a statement. Prepared
    statements, cursors and COPY are not timed, since asyncpg does not report them.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        super().__init__()
        self._pool = pool
        self._seen = set[int]()
        """The open connections that have been lent, by the process ids of their backends."""
        self._observe()

    @classmethod
    def of(cls, pool: object) -> Self | None:
        """Return the one of *pool*, which is made by the first call; None if *pool* is no `asyncpg.Pool`."""
        if not isinstance(pool, asyncpg.Pool):
            return None
        known: Self | None = getattr(pool, _ATTRIBUTE, None)
        return known or cls(pool)

    @property
    def min_size(self) -> int:
        """The number of connections that are kept open."""
        return self._pool.get_min_size()

    @property
    def max_size(self) -> int:
        """The max number of connections."""
        return self._pool.get_max_size()

    @property
    def limit(self) -> int:
        """The same as `max_size`."""
        return self.max_size

    @property
    def size(self) -> int:
        """The number of open connections."""
        return self._pool.get_size()

    @property
    def idle(self) -> int:
        """The number of open connections that are not in use."""
        return self._pool.get_idle_size()

    def _observe(self) -> None:
        """Give the pool its class, which has this object as an attribute."""
        kind = type(self._pool)

        def acquire(pool: asyncpg.Pool, *args: Any, **options: Any) -> "_Acquisition":
            return _Acquisition(kind.acquire(pool, *args, **options), self._lend)

        async def release(pool: asyncpg.Pool, connection: object, *args: Any, **options: Any) -> None:
            self._check_in(connection)
            await kind.release(pool, connection, *args, **options)

        names = {"__slots__": (), "__module__": kind.__module__, "acquire": acquire, "release": release}
        cast("Any", self._pool).__class__ = type(kind.__name__, (kind,), {**names, _ATTRIBUTE: self})

    async def _lend(self, acquiring: Awaitable[PoolConnectionProxy]) -> PoolConnectionProxy:
        """Return the connection that *acquiring* gets, and count it."""
        with self._requested(TimeoutError):
            connection = await acquiring
        with suppress(Exception):  # it may have been closed on the way from the pool to its caller, who will notice
            self._lent(connection)
        return connection

    def _lent(self, connection: PoolConnectionProxy) -> None:
        pid = connection.get_server_pid()
        if pid not in self._seen:
            self._seen.add(pid)
            self.stats.connections_opened += 1
            connection.add_termination_listener(partial(self._ended, pid))
            connection.add_query_logger(partial(self._queried, connection.get_reset_query()))
        self._check_out(connection, pid)

    def _ended(self, pid: int, connection: object) -> None:
        """Count a connection that was closed, by whichever side; a caller that has it need not give it back."""
        self._check_in(connection)
        self._seen.discard(pid)
        self.stats.connections_closed += 1

    def _queried(self, reset: str, query: LoggedQuery) -> None:
        if query.query != reset:
            self.stats.queried(int(query.elapsed * 1e6), failed=query.exception is not None)


class _Acquisition:
    """What `acquire` returns, to `await` or for `async with`: asyncpg's own, whose connection is counted by *lend*."""

    def __init__(
        self,
        acquiring: PoolAcquireContext,
        lend: Callable[[Awaitable[PoolConnectionProxy]], Coroutine[object, object, PoolConnectionProxy]],
    ) -> None:
        self._acquiring = acquiring
        self._lend = lend

    def __await__(self) -> Generator[object, None, PoolConnectionProxy]:
        return self._lend(self._acquiring).__await__()

    async def __aenter__(self) -> PoolConnectionProxy:
        return await self._lend(self._acquiring.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._acquiring.__aexit__(kind, error, trace)
