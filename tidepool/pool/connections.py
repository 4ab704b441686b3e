"""The server connections of one pool: how long they took to open, and why each of them ended.

asyncpg reports that a connection has ended, but not why; the reason follows from the state in which it was, which is
kept here. Only public hooks of asyncpg are used: `connect`, query logger and termination listener.
"""

import asyncio
import functools
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any, LiteralString, Protocol, TypeVar, cast

import asyncpg

from tidepool.pool.connection import DirectConnection, Row
from tidepool.pool.faults import connecting
from tidepool.pool.figures import PoolStats

T = TypeVar("T")

_BOUNDS_TRANSACTIONS = (17,)
"""The first version that ends a transaction that takes too long. Nothing else ends that of a worker which stopped in
the middle of sending a query: it is not idle in its transaction, and no statement of it runs."""
_OPENED = "SELECT pg_postmaster_start_time()"
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
"""The level that every statement here is written for, whatever the database's default is."""
_CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_MAX_ATTEMPTS = 8
"""After which a statement that conflicts each time fails; the delays before them add up to about a second."""
COMMIT: LiteralString = "COMMIT"
"""The statement that ends a transaction of the pool; its time is counted apart from other queries."""
_IDLE_SHARE = 0.9
"""A connection that ends after this share of its max idle time has ended for that reason: asyncpg's timer is early."""


class Session(asyncpg.Connection):
    """asyncpg's connection, which repeats a statement that conflicts with another transaction, outside of transactions.

    There the statement is a transaction of its own, and has been rolled back. Under a database whose default isolation
    is `serializable` any read may end so. Raises the conflict after eight tries. A COMMIT that conflicts is never
    repeated: the transaction is over then, and the second COMMIT would succeed without it.
    """

    async def execute(self, query: str, *args: object, **options: object) -> str:
        """Run *query*, as asyncpg does."""
        return await self._repeated(super().execute, query, *args, **options)

    async def fetch(self, query: str, *args: object, **options: object) -> list[Row]:
        """Return the rows, as asyncpg does."""
        return await self._repeated(super().fetch, query, *args, **options)

    async def fetchrow(self, query: str, *args: object, **options: object) -> Row | None:
        """Return the first row, as asyncpg does."""
        return await self._repeated(super().fetchrow, query, *args, **options)

    async def fetchval(self, query: str, *args: object, **options: object) -> Any:
        """Return the first row's first column, as asyncpg does."""
        return await self._repeated(super().fetchval, query, *args, **options)

    async def _repeated(self, statement: Callable[..., Awaitable[T]], *args: object, **options: object) -> T:
        if self.is_in_transaction():
            return await statement(*args, **options)
        for conflicts in range(1, _MAX_ATTEMPTS):
            try:
                return await statement(*args, **options)
            except _CONFLICTS:
                await asyncio.sleep(random.uniform(0, 0.01 * 2**conflicts))
        return await statement(*args, **options)


class _QueryRecord(Protocol):
    """A query as asyncpg passes it to a query logger."""

    query: str
    elapsed: float
    """Seconds."""
    exception: BaseException | None


class _NewConnection(DirectConnection, Protocol):
    def add_query_logger(self, callback: Callable[[_QueryRecord], None]) -> None: ...
    def add_termination_listener(self, callback: Callable[[object], None]) -> None: ...


class _State(Enum):
    """What a connection is doing."""

    IDLE = auto()
    CHECKED_OUT = auto()
    CHECKING_IN = auto()
    LOST = auto()
    SURPLUS = auto()
    """It is being closed because it is above the limit."""


@dataclass(slots=True)
class _Opened:
    state: _State
    idle_since_ns: int
    """By `time.perf_counter_ns`; of an idle connection."""


class Connections:
    """Opens the connections of a pool and counts in *stats* why they ended. Set `closing` before closing the pool."""

    def __init__(self, stats: PoolStats, *, max_inactive_time_s: float, transaction_timeout_s: float) -> None:
        self.closing = False
        self._connecting = 0
        self._stats = stats
        self._transaction_timeout_ms = int(transaction_timeout_s * 1000)
        self.begin: LiteralString = _BEGIN
        """The statement that begins a transaction. It sets the timeout for this transaction only: through a pooler, a
        setting of the session would reach other sessions."""
        self._max_idle_ns = max_inactive_time_s * 1e9 * _IDLE_SHARE
        self._opened: dict[int, _Opened] = {}
        """By the server's process id."""
        self._server_began: datetime | None = None

    @property
    def count(self) -> int:
        """The number of connections that the server has: open, being opened, or being closed."""
        return len(self._opened) + self._connecting

    @property
    def kept(self) -> int:
        """The number of connections that are open and not about to end."""
        return sum(opened.state not in (_State.LOST, _State.SURPLUS) for opened in self._opened.values())

    async def connect(self, *args: object, **options: object) -> DirectConnection:
        """Open a connection within its `timeout`; `asyncpg.create_pool` calls this as its `connect`.

        Raises `Refused` if waiting cannot help, and otherwise what asyncpg raises.
        """
        async with connecting():
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
        """Read when the server started and if it has a transaction timeout; cut a connection that does not answer."""
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
        """Set the state of a connection that a caller gets; returns the server's process id."""
        pid = connection.get_server_pid()
        self._move(pid, _State.CHECKED_OUT)
        return pid

    def checking_in(self, connection: DirectConnection, pid: int) -> None:
        """Set the state of a connection that is being given back; `checked_in` follows."""
        self._move(pid, _State.LOST if self.has_ended(connection) else _State.CHECKING_IN)

    def surplus(self, pid: int) -> None:
        """Set the state of a connection that is being closed because it is above the limit, unless it is lost."""
        if (opened := self._opened.get(pid)) and opened.state != _State.LOST:
            opened.state = _State.SURPLUS

    def checked_in(self, pid: int, now_ns: int) -> None:
        """Set the state of a connection that has been given back, unless it has ended meanwhile."""
        if (opened := self._opened.get(pid)) and opened.state == _State.CHECKING_IN:
            opened.state, opened.idle_since_ns = _State.IDLE, now_ns

    @staticmethod
    def has_ended(connection: DirectConnection) -> bool:
        """Return whether a connection that was checked out cannot be used any more."""
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
