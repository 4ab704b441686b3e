"""Meets SQLAlchemy: runs jobs in sessions, executes statements in their transactions, reads the figures of a pool.

A job's connection is one of the application's own engine, in a transaction that the ledger commits. Its sessions are
bound to that connection, each `commit()` of theirs ends a savepoint, and so the code of the application stays as it is.

The figures are for pool snapshots and `tidepool why`. SQLAlchemy reports by events when a connection is opened, checked
out, checked in and closed, and when a statement has run. It has no event for a caller that begins to wait, so the
pool's public method `connect` is wrapped: the time until it returns is counted as the wait, which includes the opening
of a connection if there was none.

Not each checkout ends with a check-in, as a connection may be detached or invalidated, and the pool disposed. So what
is counted is the connections themselves: which are open, and which of them a caller has.
"""

import asyncio
import functools
import inspect
import re
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, LiteralString, TypeVar, cast

from sqlalchemy import Connection, CursorResult, Engine, TextClause, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import InvalidRequestError, StatementError
from sqlalchemy.exc import TimeoutError as NoConnectionInTime
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    AsyncTransaction,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.pool import Pool, PoolProxiedConnection, QueuePool

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import HandlerError
from tidepool.jobs.transaction import chain, fault_of
from tidepool.pool.application_pool import ApplicationPool
from tidepool.pool.connection import Row
from tidepool.pool.faults import (
    Conflict,
    DatabaseFault,
    PoolTimeout,
    Unavailable,
    from_other_driver,
    translated,
    words,
)

__all__ = ["JobSessions"]

S = TypeVar("S", bound=AsyncSession)

_NUMBERED = re.compile(r"\$(\d)")
_OF_A_JOB = "tidepool_job"
"""The option of a job's connection that has its `_JobConnection`, and the key of a session's `info` for its `_Lent`."""
_lent_now: "ContextVar[_Lent | None]" = ContextVar("_lent_now", default=None)
"""What the job has that runs in this context."""
_watched: "weakref.WeakSet[Engine]" = weakref.WeakSet()
"""The engines of jobs, which have the listeners of `_watch`."""
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


class JobSessions(async_sessionmaker[S]):
    """A session factory whose sessions join the transaction of the job that makes them; elsewhere an ordinary one.

    It takes the place of an `async_sessionmaker` that a module has: `sessions = JobSessions(engine)`. In a job that
    works on a session or connection of the same engine, what its sessions commit is committed with the job. Sessions of
    several tasks of one job cannot be used at a time, since they have the same connection: that raises `RuntimeError`.
    """

    def __call__(self, **local_kw: Any) -> S:
        """Return a new session; *local_kw* as in `async_sessionmaker`."""
        lent = _lent_now.get()
        if lent is None or "bind" in local_kw or not lent.is_of(self.kw["bind"]):
            return super().__call__(**local_kw)
        return lent.session(super().__call__, self, local_kw)


class SessionSource:
    """Opens transactions of jobs on the engine of *sessions*, and lends sessions or connections; see `JobType.source`.

    *sessions* is an `async_sessionmaker`, or a `sessionmaker` with `class_=AsyncSession`. *held* is what the function
    of a job works on: `AsyncSession`, `AsyncConnection`, `Session`, or a class that is derived from one of these; None:
    what *sessions* makes.
    Raises `TypeError` if it is another class, or if *sessions* makes other sessions.
    """

    def __init__(self, sessions: Any, held: type | None = None) -> None:
        made = getattr(sessions, "class_", object)
        if not issubclass(made, AsyncSession):
            raise TypeError(f"sessions: needs an async_sessionmaker of SQLAlchemy, not {sessions!r}")
        held = held or made
        if not issubclass(held, (AsyncSession, AsyncConnection, Session)):
            raise TypeError(f"a job cannot work on {held.__name__}: use AsyncSession, AsyncConnection or Session")
        if not issubclass(held, AsyncConnection) and not issubclass(_class_of(sessions, held), held):
            raise TypeError(f"a job cannot work on {held.__name__}: sessions makes {made.__name__}")
        self._sessions = sessions
        self._held = held

    @asynccontextmanager
    async def transaction(self, schema: str) -> AsyncGenerator["_JobConnection"]:
        """Lend a connection in a transaction, which is committed at the end of the block; see `TransactionSource`.

        Raises the errors of `tidepool.pool.faults`. Waits for a connection for as long as the engine's `pool_timeout`.
        """
        async with translated(), AsyncExitStack() as stack:
            with _drivers_errors():
                connection = await stack.enter_async_context(_connected(self._engine()))
                job_connection = _JobConnection(connection, schema)
                options: dict[str, Any] = {"isolation_level": "READ COMMITTED", _OF_A_JOB: job_connection}
                await connection.execution_options(**options)
                transaction = await connection.begin()
                try:
                    yield job_connection
                except BaseException:
                    await job_connection.roll_back(transaction)
                    raise
                job_connection.is_ending = True
                await transaction.commit()

    @asynccontextmanager
    async def lend(self, connection: Any, job: Job[Any]) -> AsyncGenerator[object]:  # noqa: ARG002  (others need it)
        """Lend a session or connection in the transaction of *connection* to the function of *job*."""
        lent = _Lent(connection)
        token = _lent_now.set(lent)
        try:
            yield lent.what(self._held, self._sessions)
            await lent.finish()
        except Exception as error:  # noqa: BLE001  (each is raised again, as what the ledger makes of it)
            await lent.close()
            fault = connection.explained(error)
            raise fault from error if isinstance(fault, HandlerError) else None
        finally:
            _lent_now.reset(token)
            lent.end()

    def calling(self, function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """Return *function* so that it takes what `lend` lends, is a coroutine function, and flushes its session.

        A plain function gets the `Session` of the `AsyncSession`, as from `AsyncSession.run_sync`. Raises `TypeError`
        if it is a coroutine function that asks for a `Session`.
        """
        is_plain = issubclass(self._held, Session)
        if is_plain and inspect.iscoroutinefunction(function):
            raise TypeError(
                f"{function.__qualname__}: a job that works on a Session is a plain function, without async"
            )

        @functools.wraps(function)
        async def call(held: Any, /, *args: Any, **kwargs: Any) -> Any:
            if is_plain:
                answer = await held.run_sync(function, *args, **kwargs)
            else:
                answer = await function(held, *args, **kwargs)
            if (lent := _lent_now.get()) is not None:
                await lent.finish()
            return answer

        return call

    def _engine(self) -> AsyncEngine:
        """Return the engine, which an application may give its factory later, by `configure`."""
        engine = self._sessions.kw.get("bind")
        if not isinstance(engine, AsyncEngine):
            raise RuntimeError(f"sessions: the factory needs an AsyncEngine, not {engine!r}")  # noqa: TRY004  (it may come late)
        _watch(engine.sync_engine)
        return engine


class _JobConnection:
    """The connection of a job's transaction, for the ledger: a `tidepool.pool.connection.Connection`.

    Its errors are those of asyncpg, or of `tidepool.pool.faults`.
    """

    def __init__(self, connection: AsyncConnection, schema: str) -> None:
        self.own = connection
        self.schema = schema
        self.error: BaseException | None = None
        """The last error of a statement, as SQLAlchemy has raised it."""
        self.is_ending = False
        """Whether the transaction may be committed or rolled back."""

    async def execute(self, query: LiteralString, *args: object) -> str:
        """Run *query*, or several without *args*; return a tag with the number of rows that were changed."""
        result: CursorResult[Any] | None = None
        for statement in [query] if args else query.split(";"):
            result = await self._run(statement, args)
        return f"ROWS {result.rowcount if result else 0}"

    async def fetch(self, query: LiteralString, *args: object) -> list[Row]:
        """Run *query*, and return its rows, whose columns are read by name."""
        return cast("list[Row]", [*(await self._run(query, args)).mappings()])

    async def fetchrow(self, query: LiteralString, *args: object) -> Row | None:
        """Run *query*, and return its first row, or None."""
        return cast("Row | None", (await self._run(query, args)).mappings().first())

    async def fetchval(self, query: LiteralString, *args: object) -> Any:
        """Run *query*, and return the first column of its first row, or None."""
        return (await self._run(query, args)).scalar()

    def transaction(self) -> AbstractAsyncContextManager[object]:
        """Return a context manager for a savepoint."""
        return self.own.begin_nested()

    async def roll_back(self, transaction: AsyncTransaction) -> None:
        """Roll *transaction* back, or close the connection if that is impossible, because a task still uses it."""
        self.is_ending = True
        try:
            await transaction.rollback()
        except Exception:  # noqa: BLE001  (the error for which it is rolled back says more)
            await self.own.invalidate()

    def explained(self, error: Exception) -> Exception:
        """Return *error*, raised by a job's function, as the database's error if it is one of this connection.

        Any other error is returned as `HandlerError`: the function may use other servers.
        """
        if isinstance(error, (HandlerError, DatabaseFault)):
            return error
        if isinstance(self.error, StatementError) and (error is self.error or self.error in chain(error)):
            driver_error = _driver_error(self.error)
            fault = DatabaseFault.of(driver_error) or driver_error
            if isinstance(fault, (Unavailable, Conflict)) or (error is self.error and isinstance(fault, DatabaseFault)):
                return driver_error
        return HandlerError.of(error)

    async def _run(self, query: str, args: Sequence[object]) -> CursorResult[Any]:
        with _drivers_errors():
            return await self.own.execute(*_prepared(query, args), execution_options={"preserve_rowcount": True})


class _Lent:
    """What one job has: sessions on the connection of its transaction, until the job ends."""

    def __init__(self, connection: _JobConnection) -> None:
        self._connection: AsyncConnection | None = connection.own
        self._sessions: list[tuple[AsyncSession, asyncio.Task[object] | None]] = []
        """The sessions that were made in the job, the first one first, and the tasks that made them."""
        self._own_connection: AsyncConnection | None = None

    def is_of(self, bind: object) -> bool:
        """Return whether *bind* is the engine of the job's connection."""
        return isinstance(bind, AsyncEngine) and bind.sync_engine is self._open().engine.sync_engine

    def what(self, held: type, sessions: Any) -> object:
        """Return what the job's function works on, of the class *held*."""
        if issubclass(held, AsyncConnection):
            connection = self._open()
            self._own_connection = AsyncConnection(connection.engine, connection.sync_connection)
            return self._own_connection
        return self.session(sessions, sessions, {})

    def session(self, make: Callable[..., S], sessions: Any, options: dict[str, Any]) -> S:
        """Return a session in the job's transaction, which *make* makes with *options*, and those of *sessions*."""
        given = options.get("sync_session_class")
        session = make(
            **{
                **options,
                "bind": self._open(),
                "join_transaction_mode": "create_savepoint",
                "sync_session_class": _joining(given or _class_of(sessions, Session)),
                "info": {**options.get("info", {}), _OF_A_JOB: self},
            }
        )
        self._sessions.append((session, asyncio.current_task()))
        return session

    def connection_for(self, session: Session) -> Connection:
        """Return the connection for *session*, which is about to execute a statement.

        Raises `RuntimeError` if the job has ended, or if a session that another task has made is in a transaction. Only
        the tasks that made them are compared, since SQLAlchemy commits in tasks of its own.
        """
        connection = self._open()
        owners = {each.sync_session: owner for each, owner in self._sessions}
        for other, owner in owners.items():
            if owner is not owners[session] and other.in_transaction():
                raise RuntimeError(
                    "two sessions at a time in one job: they have one connection, the one of the job's transaction; "
                    "use one after the other, not in tasks of their own (asyncio.gather)"
                )
        assert connection.sync_connection is not None
        return connection.sync_connection

    async def finish(self) -> None:
        """Flush the session of the job's function; what others have not committed is undone, as it is elsewhere."""
        for session, _ in reversed(self._sessions[1:]):
            await session.close()
        for session, _ in self._sessions[:1]:
            await session.commit()

    async def close(self) -> None:
        """Close the sessions, after an error: the savepoint of each is rolled back."""
        for session, _ in reversed(self._sessions):
            with suppress(StatementError, InvalidRequestError):
                await session.close()

    def end(self) -> None:
        """Take the connection away from all that the job has."""
        self._connection = None
        if self._own_connection is not None:
            self._own_connection.sync_connection = None

    def _open(self) -> AsyncConnection:
        if self._connection is None:
            raise RuntimeError("the job has ended, and its session cannot be used any more")
        return self._connection


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
    return _named(statement), {f"p{number}": value for number, value in enumerate(values, 1)}


@functools.cache
def _named(statement: str) -> TextClause:
    """Return *statement* with named parameters; in brackets, since `:p1::text` would be no parameter."""
    return text(_NUMBERED.sub(r"(:p\1)", statement))


def _class_of(sessions: Any, held: type) -> type[Any]:
    """Return the class of the sessions that *sessions* makes; for a `Session` that of the one inside."""
    made = cast("type[AsyncSession]", sessions.class_)
    return sessions.kw.get("sync_session_class") or made.sync_session_class if issubclass(held, Session) else made


@functools.cache
def _joining(kind: type[Session]) -> type[Session]:
    """Return *kind* for sessions that execute all their statements on the connection of their job."""

    def get_bind(session: Session, *_args: object, bind: Any = None, **_options: object) -> Any:
        return bind or session.info[_OF_A_JOB].connection_for(session)

    return cast("type[Session]", type(kind.__name__, (kind,), {"get_bind": get_bind}))


@asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Lend a connection of *engine*. Raises `PoolTimeout` or what `translated` raises if there is none."""
    async with AsyncExitStack() as stack:
        try:
            async with translated(connecting=True):
                with _drivers_errors():
                    connection = await stack.enter_async_context(engine.connect())
        except NoConnectionInTime as error:
            raise PoolTimeout(f"the engine of the application: {words(error)}") from None
        yield connection


@contextmanager
def _drivers_errors() -> Generator[None]:
    """Raise an error of SQLAlchemy that comes from its driver as the driver's, without the statement's values."""
    try:
        yield
    except StatementError as error:
        raise _driver_error(error) from None


def _driver_error(error: StatementError) -> Exception:
    """Return the driver's error that *error* wraps, as asyncpg has it; `Unavailable` if the connection is lost."""
    orig = error.orig
    found = orig.__cause__ if orig is not None and isinstance(orig.__cause__, Exception) else orig
    driver_error = from_other_driver(found) if isinstance(found, Exception) else error
    if getattr(error, "connection_invalidated", False) and DatabaseFault.of(driver_error) is None:
        return Unavailable(words(driver_error))
    return driver_error


def _watch(engine: Engine) -> None:
    """Refuse what would end the transaction of a job on connections of *engine*, and note the errors of statements."""
    if engine in _watched:
        return
    _watched.add(engine)

    def of(connection: Connection | None) -> _JobConnection | None:
        return None if connection is None else connection.get_execution_options().get(_OF_A_JOB)

    def check(connection: Connection, _cursor: object, statement: str, *_others: object) -> None:
        if of(connection) is not None and (reason := fault_of(statement)) is not None:
            raise RuntimeError(reason)

    def end(connection: Connection) -> None:
        if (job := of(connection)) is not None and not job.is_ending:
            raise RuntimeError(fault_of("COMMIT"))

    def note(context: ExceptionContext) -> None:
        if (job := of(context.connection)) is not None:
            job.error = context.sqlalchemy_exception

    for name, listener in (
        ("before_cursor_execute", check),
        ("commit", end),
        ("rollback", end),
        ("handle_error", note),
    ):
        event.listen(engine, name, listener)
