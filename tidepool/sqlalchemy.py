"""Meets SQLAlchemy: executes statements in a session's transaction, and reads the figures of an engine's pool.

The figures are for pool snapshots and `tidepool why`. SQLAlchemy reports by events when a connection is opened, checked
out, checked in and closed, and when a statement has run. It has no event for a caller that begins to wait, so the
pool's public method `connect` is wrapped: the time until it returns is counted as the wait, which includes the opening
of a connection if there was none.

Not each checkout ends with a check-in, as a connection may be detached or invalidated, and the pool disposed. So what
is counted is the connections themselves: which are open, and which of them a caller has.
"""

import re
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, cast

from sqlalchemy import Connection, Engine, TextClause, event, text
from sqlalchemy.exc import TimeoutError as NoConnectionInTime
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.pool import Pool, PoolProxiedConnection, QueuePool

from tidepool.pool.application_pool import ApplicationPool

_NUMBERED = re.compile(r"\$(\d)")
_made: "weakref.WeakKeyDictionary[Engine, weakref.ref[EnginePool]]" = weakref.WeakKeyDictionary()
"""The one of each engine, whose listeners have the strong references to it."""


async def execute(holder: object, statement: str, values: Sequence[object]) -> None:
    """Execute *statement*, whose parameters are `$1` to `$9`, with *values* in the transaction of *holder*.

    *holder* is an `AsyncSession` or `AsyncConnection`, which begins a transaction if there is none; its own methods are
    used, so that it knows of it. Raises `RuntimeError` in autocommit mode, `TypeError` if it is something else.
    """
    if isinstance(holder, (AsyncSession, async_scoped_session)):
        connection: AsyncConnection = await holder.connection()
    elif isinstance(holder, AsyncConnection):
        connection = holder
    else:
        raise TypeError(f"needs an AsyncSession or AsyncConnection of SQLAlchemy, not {type(holder).__name__}")
    if connection.sync_connection is not None:
        _require_transaction(connection.sync_connection)
    await connection.execute(*_prepared(statement, values))


def execute_now(holder: object, statement: str, values: Sequence[object]) -> None:
    """Do as `execute` for a `Session` or `Connection`, without asyncio."""
    if isinstance(holder, (Session, scoped_session)):
        connection: Connection = holder.connection()
    elif isinstance(holder, Connection):
        connection = holder
    else:
        raise TypeError(f"needs a Session or Connection of SQLAlchemy, not {type(holder).__name__}")
    _require_transaction(connection)
    connection.execute(*_prepared(statement, values))


class EnginePool(ApplicationPool):
    """The connection pool of *engine*, as a `pool.watched.WatchedPool`. Its counters begin when it is made.

    `of` makes it: an engine has only one, which lives as long as the engine does. Pools other than SQLAlchemy's queue
    pools, such as `NullPool`, have no limit: their max size is reported as 0.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self._open = set[object]()
        self._retired = set[object]()
        """Connections of a pool that was disposed while callers had them: they leave when they are checked in."""
        self._unseen = self._pool.checkedin() + self._pool.checkedout() if isinstance(self._pool, QueuePool) else 0
        """The number of connections that were open when the watch began and that no event has reported since."""
        listeners: dict[str, Callable[..., None]] = {
            "connect": self._opened,
            "checkout": self._checked_out,
            "checkin": self._checked_in,
            "detach": self._closed,
            "close": self._closed,
            "before_cursor_execute": self._begun,
            "after_cursor_execute": self._queried,
            "engine_disposed": self._disposed,
        }
        for name, listener in listeners.items():
            event.listen(self._engine, name, listener)
        self._wrap_connect()

    @classmethod
    def of(cls, engine: Engine | AsyncEngine) -> "EnginePool":
        """Return the one of *engine*, which is made by the first call; engines with other options share a pool."""
        owner = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
        while (proxied := getattr(owner, "_proxied", None)) is not None:  # of `Engine.execution_options`
            owner = proxied
        known = _made.get(owner)
        made = None if known is None else known()
        if made is None:
            made = cls(owner)
            _made[owner] = weakref.ref(made)
        return made

    @property
    def _pool(self) -> Pool:
        return self._engine.pool

    @property
    def min_size(self) -> int:
        """The number of connections that are kept open once they have been opened: the engine's `pool_size`."""
        return self._pool.size() if isinstance(self._pool, QueuePool) else 0

    @property
    def max_size(self) -> int:
        """The max number of connections, `pool_size` and `max_overflow`; 0 if there is no limit."""
        overflow: int = getattr(self._pool, "_max_overflow", -1)  # SQLAlchemy has no public name for it
        return self.min_size + overflow if overflow >= 0 else 0

    @property
    def limit(self) -> int:
        """The same as `max_size`."""
        return self.max_size

    @property
    def size(self) -> int:
        """The number of open connections."""
        return len(self._open) + self._unseen

    @property
    def idle(self) -> int:
        """The number of open connections that are not in use."""
        return max(0, self.size - self.stats.in_use)

    def _wrap_connect(self) -> None:
        """Time each request for a connection."""
        pool, connect = self._pool, self._pool.connect

        def timed() -> PoolProxiedConnection:
            with self._requested(NoConnectionInTime):
                return connect()

        cast("Any", pool).connect = timed

    def _opened(self, connection: object, _entry: object) -> None:
        self._open.add(connection)
        self.stats.connections_opened += 1

    def _closed(self, connection: object, _entry: object) -> None:
        """Count a connection out that was closed, or detached: it is its caller's own from then on."""
        self._see(connection)
        self._check_in(connection)
        self._leave(connection)

    def _checked_out(self, connection: object, _entry: object, _proxy: object) -> None:
        self._see(connection)
        self._check_in(connection)  # a `StaticPool` has one connection for all callers
        self._check_out(connection, _server_pid(connection))

    def _checked_in(self, connection: object, _entry: object) -> None:
        if connection is not None:  # otherwise it was invalidated, and so closed
            self._see(connection)
            self._check_in(connection)
            if connection in self._retired:
                self._leave(connection)

    def _disposed(self, _engine: Engine) -> None:
        """Forget the connections of the pool that the engine had, even if they were not closed; it has another now."""
        self.stats.connections_closed += self._unseen
        self._unseen = 0
        self._retired.update(self._checkouts)
        for connection in self._open - self._retired:
            self._leave(connection)
        self._wrap_connect()

    def _see(self, connection: object) -> None:
        if self._unseen and connection not in self._open:
            self._unseen -= 1
            self._open.add(connection)

    def _leave(self, connection: object) -> None:
        self._retired.discard(connection)
        if connection in self._open:
            self._open.remove(connection)
            self.stats.connections_closed += 1

    @staticmethod
    def _begun(connection: Connection, *_: object) -> None:
        connection.info["tidepool_begun_ns"] = time.perf_counter_ns()

    def _queried(self, connection: Connection, *_: object) -> None:
        begun_ns = connection.info.pop("tidepool_begun_ns", None)
        if begun_ns is not None:
            self.stats.queried((time.perf_counter_ns() - begun_ns) // 1000, failed=False)


def _server_pid(connection: object) -> int:
    """Return the process id of a DBAPI connection's backend; 0 if its driver does not report it."""
    driver: Any = getattr(connection, "driver_connection", connection)
    if hasattr(driver, "get_server_pid"):  # asyncpg
        return int(driver.get_server_pid())
    return int(getattr(getattr(driver, "info", None), "backend_pid", 0))  # psycopg


def _require_transaction(connection: Connection) -> None:
    """Raise `RuntimeError` if each statement of *connection* is committed at once."""
    level = connection.get_execution_options().get("isolation_level")
    if level is None:  # SQLAlchemy has no public name for that of `create_engine`
        level = getattr(connection.dialect, "_on_connect_isolation_level", None)
    if level == "AUTOCOMMIT":
        raise RuntimeError(
            "the connection's isolation level is AUTOCOMMIT, so the job would be enqueued whatever happens next"
        )


def _prepared(statement: str, values: Sequence[object]) -> tuple[TextClause, dict[str, object]]:
    named = text(_NUMBERED.sub(r":p\1", statement))
    return named, {f"p{number}": value for number, value in enumerate(values, 1)}
