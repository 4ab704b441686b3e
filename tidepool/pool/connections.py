"""Opens the connections of one pool, records what each is used for, and counts why they end and how long uses take.

asyncpg reports that a connection has ended, but not why. The reason follows from what the connection was doing, such as
being idle or checked out, which is recorded here. Only public hooks of asyncpg are used: `connect`, query logger and
termination listener.
"""

import asyncio
import contextlib
import functools
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from pathlib import Path
from types import CodeType, TracebackType
from typing import LiteralString, Protocol, Self, TypeVar, cast

import asyncpg

from tidepool.pool.connection import DirectConnection
from tidepool.pool.faults import DatabaseFault, translated
from tidepool.pool.figures import PoolStats

T = TypeVar("T")

_OF_THE_POOL = (__file__, str(Path(__file__).with_name("pool.py")), contextlib.__file__)
"""Source files whose frames are not the caller that asked for a connection."""
_BOUNDS_TRANSACTIONS = (17,)
"""The first version of PostgreSQL with the setting `transaction_timeout`. No other timeout ends the transaction of a
worker that stopped in the middle of sending a query: it is not idle in its transaction, and no statement of it runs."""
_OPENED = "SELECT pg_postmaster_start_time()"
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
"""The statement that begins a transaction. It sets the isolation level that the SQL here is written for, whatever the
database's default is."""
COMMIT: LiteralString = "COMMIT"
"""The statement that commits a transaction of the pool. Its duration is also counted on its own, apart from queries."""
_IDLE_SHARE = 0.9
"""A share of the max idle time. A connection that was idle for at least this long when it ended is counted as closed
because it was idle; the share is less than 1 because asyncpg's timer is early."""


class Checkout:
    """The context manager that `Pool.acquire` returns: lends a connection for one `async with` block.

    Entering the block awaits *check_out*, which returns a connection; leaving it awaits *check_in*, which takes the
    connection back. Errors of the driver become those of `tidepool.pool.faults`. It is a class because a generator
    would cost 4 us more. It keeps the caller's code and line instead of its frame, which would keep the caller's
    variables alive.
    """

    __slots__ = ("_check_in", "_check_out", "_code", "_line", "connection", "server_pid", "since_ns", "task")

    # *check_out* sets these:
    connection: DirectConnection
    server_pid: int
    """The process id of the connection's PostgreSQL backend."""
    since_ns: int
    """When the connection was checked out (`time.perf_counter_ns`)."""
    task: asyncio.Task[object] | None
    """The task that has the connection; None if it was checked out outside any task."""

    def __init__(
        self, check_out: Callable[[Self], Awaitable[DirectConnection]], check_in: Callable[[Self], Awaitable[None]]
    ) -> None:
        self._check_out = check_out
        self._check_in = check_in
        self._code, self._line = _caller()

    async def __aenter__(self) -> DirectConnection:
        try:
            return await self._check_out(self)
        except Exception as error:
            DatabaseFault.raise_for(error)
            raise

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            await self._check_in(self)
        except Exception as failure:
            DatabaseFault.raise_for(failure)
            raise
        if isinstance(error, Exception):
            DatabaseFault.raise_for(error)

    @property
    def where(self) -> str:
        """The place in the code that asked for the connection, as `function:line`."""
        return f"{self._code.co_qualname}:{self._line}"

    @property
    def task_name(self) -> str:
        """The name of the asyncio task that has the connection; empty if it was lent outside any task."""
        return self.task.get_name() if self.task else ""

    @property
    def us(self) -> int:
        """For how long the connection has been lent to its user, in microseconds."""
        return (time.perf_counter_ns() - self.since_ns) // 1000


def _caller() -> tuple[CodeType, int]:
    """Return the code object and line number of the caller, outside the pool, that asked for a connection."""
    # from the checkout's construction upwards; `inspect` would begin here, and a traceback would cost 20 us
    frame = sys._getframe(2)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    while frame.f_code.co_filename in _OF_THE_POOL and frame.f_back:
        frame = frame.f_back
    return frame.f_code, frame.f_lineno


class _QueryRecord(Protocol):
    """A query that has ended, as asyncpg passes it to a query logger."""

    query: str
    elapsed: float
    """The query's duration in seconds."""
    exception: BaseException | None


class _NewConnection(DirectConnection, Protocol):
    def add_query_logger(self, callback: Callable[[_QueryRecord], None]) -> None: ...
    def add_termination_listener(self, callback: Callable[[object], None]) -> None: ...


class _State(Enum):
    """What a connection is doing, from which follows why it has ended."""

    IDLE = auto()
    CHECKED_OUT = auto()
    CHECKING_IN = auto()
    LOST = auto()
    """It ended while it was checked out."""
    SURPLUS = auto()
    """It is being closed because the pool has more connections than its limit."""


@dataclass(slots=True)
class _Opened:
    state: _State
    idle_since_ns: int
    """When it became idle (`time.perf_counter_ns`). Valid only while the state is IDLE."""


class PoolConnections:
    """Opens the PostgreSQL connections of one pool, and keeps track of each from its opening to its end.

    The pool reports each checkout and return to it. So when a connection ends, the cause is known, and is counted in
    *stats*. Set `closing` to True before the pool is closed: ends are then counted as caused by the shutdown.
    """

    def __init__(self, stats: PoolStats, *, max_inactive_time_s: float, transaction_timeout_s: float) -> None:
        self.closing = False
        self._connecting = 0
        self._stats = stats
        self._transaction_timeout_ms = int(transaction_timeout_s * 1000)
        self.begin: LiteralString = _BEGIN
        """The statement that begins a transaction. It sets the timeout for this transaction only: through a pooler
        such as PgBouncer, a setting of the session would reach other sessions."""
        self._max_idle_ns = max_inactive_time_s * 1e9 * _IDLE_SHARE
        self._opened: dict[int, _Opened] = {}
        """The open connections, by the process id of their PostgreSQL backend."""
        self._server_began: datetime | None = None

    @property
    def count(self) -> int:
        """How many connections this pool occupies on the PostgreSQL server: open, being opened, or being closed."""
        return len(self._opened) + self._connecting

    @property
    def kept(self) -> int:
        """How many open connections the pool keeps, without those lost or being closed because of its limit."""
        return sum(opened.state not in (_State.LOST, _State.SURPLUS) for opened in self._opened.values())

    async def connect(self, *args: object, **options: object) -> DirectConnection:
        """Open a connection with asyncpg, within the seconds that the option `timeout` gives.

        This method is the argument `connect` of `asyncpg.create_pool`. Raises `Refused` if waiting cannot help, or else
        `Unavailable`.
        """
        async with translated(connecting=True):
            return await self._connect(*args, **options)

    async def _connect(self, *args: object, **options: object) -> DirectConnection:
        since_ns = time.perf_counter_ns()
        self._connecting += 1
        try:
            async with asyncio.timeout(cast("float", options["timeout"])):
                connection = cast("_NewConnection", await asyncpg.connect(*args, **options))
                await self._greet(connection)
        except Exception as error:
            self._count_error(error)
            raise
        finally:
            self._connecting -= 1
        self._stats.connected((time.perf_counter_ns() - since_ns) // 1000)
        pid = connection.get_server_pid()
        self._opened[pid] = _Opened(_State.IDLE, time.perf_counter_ns())
        connection.add_query_logger(self._queried)
        connection.add_termination_listener(functools.partial(self._ended, pid))
        return connection

    async def _greet(self, connection: DirectConnection) -> None:
        """Read when the server started, and whether it has a transaction timeout. Closes *connection* on an error."""
        try:
            server_began = await connection.fetchval(_OPENED)
        except BaseException:
            connection.terminate()
            raise
        if connection.get_server_version() >= _BOUNDS_TRANSACTIONS:
            text = f"{_BEGIN}; SET LOCAL transaction_timeout = {self._transaction_timeout_ms}"
            self.begin = cast("LiteralString", text)
        if self._server_began not in (None, server_began):
            self._stats.database_restarts += 1
        self._server_began = server_began

    def checked_out(self, connection: DirectConnection) -> int:
        """Record that a caller gets *connection*. Returns the process id of the PostgreSQL backend that serves it."""
        pid = connection.get_server_pid()
        self._move(pid, _State.CHECKED_OUT)
        return pid

    def checking_in(self, connection: DirectConnection, pid: int) -> None:
        """Record that a caller gives *connection* back, or that it is lost if it has ended; then call `checked_in`.

        *pid* is the process id of the connection's PostgreSQL backend.
        """
        self._move(pid, _State.LOST if self.has_ended(connection) else _State.CHECKING_IN)

    def surplus(self, pid: int) -> None:
        """Record that a connection is closed because the pool's limit was lowered, unless it is lost already.

        *pid* is the process id of the connection's PostgreSQL backend.
        """
        if (opened := self._opened.get(pid)) and opened.state != _State.LOST:
            opened.state = _State.SURPLUS

    def checked_in(self, pid: int, now_ns: int) -> None:
        """Record that a connection is idle in the pool from *now_ns* on, unless it has ended meanwhile.

        *pid* is the process id of the connection's PostgreSQL backend; *now_ns* is a reading of `time.perf_counter_ns`.
        """
        if (opened := self._opened.get(pid)) and opened.state == _State.CHECKING_IN:
            opened.state, opened.idle_since_ns = _State.IDLE, now_ns

    @staticmethod
    def has_ended(connection: DirectConnection) -> bool:
        """Return whether *connection*, which was checked out, has ended and cannot be used any more."""
        try:
            return connection.is_closed()
        except asyncpg.InterfaceError:  # asyncpg has taken it back, because it cannot be used any more
            return True

    def _move(self, pid: int, state: _State) -> None:
        if opened := self._opened.get(pid):
            opened.state = state

    def _ended(self, pid: int, _connection: object) -> None:
        opened = self._opened.pop(pid, _Opened(_State.LOST, 0))
        self._stats.connections_closed += 1
        if self.closing:
            self._stats.closed_shutdown += 1
        elif opened.state == _State.SURPLUS:
            self._stats.closed_surplus += 1
        elif opened.state == _State.CHECKING_IN:
            self._stats.closed_used_up += 1
        elif opened.state != _State.IDLE:
            self._stats.closed_lost_in_use += 1
        elif 0 < self._max_idle_ns <= time.perf_counter_ns() - opened.idle_since_ns:
            self._stats.closed_idle += 1
        else:
            self._stats.closed_lost_idle += 1

    def _queried(self, record: _QueryRecord) -> None:
        us, failed = int(record.elapsed * 1e6), record.exception is not None
        self._stats.queried(us, failed=failed)
        if record.query == COMMIT and not failed:
            self._stats.committed(us)

    def _count_error(self, error: Exception) -> None:
        if isinstance(error, TimeoutError):
            self._stats.connect_timeouts += 1
        elif isinstance(error, asyncpg.CannotConnectNowError):
            self._stats.connect_starting += 1
        elif isinstance(error, asyncpg.TooManyConnectionsError):
            self._stats.connect_too_many += 1
        elif isinstance(error, OSError):
            self._stats.connect_refused += 1
        else:
            self._stats.connect_errors += 1
