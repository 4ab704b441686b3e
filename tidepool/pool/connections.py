"""The server connections of one pool: how long they took to open, and why each of them ended.

asyncpg tells when a connection has ended, but not why; that follows from what it was doing then, which is
noted here. Of asyncpg only the public hooks are used: `connect`, query logger and termination listener.
"""

import asyncio
import functools
import random
import time
from typing import Any, LiteralString, cast

import asyncpg

from tidepool.pool.faults import connecting
from tidepool.pool.figures import PoolStats

_LENT, _RETURNING, _LOST, _SURPLUS = -1, -2, -3, -4
"""What a connection does, in place of the time since when it has been idle."""
_BOUNDS_TRANSACTIONS = (17,)
"""The first version that ends a transaction that takes too long. Nothing else ends that of a worker which stopped in
the middle of sending a query: it is not idle in its transaction, and no statement of it runs."""
_OPENED = "SELECT pg_postmaster_start_time()"
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
"""The level that every statement here is written for, whatever the database's default is."""
_CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_MOST_CONFLICTS = 8
COMMIT: LiteralString = "COMMIT"
"""What ends a transaction of the pool, and is counted as such."""
_IDLE_SHARE = 0.9
"""A connection that ends after this share of the time for which it may be idle has ended for that reason."""


class Session(asyncpg.Connection):
    """asyncpg's connection, which repeats a statement that conflicts with another transaction, outside of transactions.

    There the statement is a transaction of its own, and has been rolled back. Under a database whose default isolation
    is `serializable` any read may end so. Raises the conflict after eight tries. A COMMIT that conflicts is never
    repeated: the transaction is over then, and the second COMMIT would succeed without it.
    """

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """Run *query*, as asyncpg does."""
        return await self._repeated(super().execute, query, *args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """Return the rows, as asyncpg does."""
        return await self._repeated(super().fetch, query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """Return the first row, as asyncpg does."""
        return await self._repeated(super().fetchrow, query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """Return the first row's first column, as asyncpg does."""
        return await self._repeated(super().fetchval, query, *args, **options)

    async def _repeated(self, statement: Any, *args: Any, **options: Any) -> Any:
        if self.is_in_transaction():
            return await statement(*args, **options)
        for conflicts in range(1, _MOST_CONFLICTS):
            try:
                return await statement(*args, **options)
            except _CONFLICTS:
                await asyncio.sleep(random.uniform(0, 0.01 * 2**conflicts))
        return await statement(*args, **options)


class Connections:
    """Opens the connections of a pool and counts in *stats* why they ended. Set `closing` before closing the pool."""

    def __init__(self, stats: PoolStats, *, max_inactive_time_s: float, transaction_timeout_s: float) -> None:
        self.closing = False
        self._connecting = 0
        self._stats = stats
        self._transaction_timeout_ms = int(transaction_timeout_s * 1000)
        self.begin: LiteralString = _BEGIN
        """What begins a transaction; its timeout is set in it, as a pooler would hand a session's on to others."""
        self._max_idle_ns = max_inactive_time_s * 1e9 * _IDLE_SHARE
        self._doing: dict[int, int] = {}
        """By the server's process id: since when idle (`time.perf_counter_ns`), or one of the above."""
        self._server_began: Any = None

    @property
    def count(self) -> int:
        """The number of connections that the server has for this pool: open, being opened, or being closed."""
        return len(self._doing) + self._connecting

    @property
    def kept(self) -> int:
        """The number of connections that are open and will stay open."""
        return sum(doing not in (_LOST, _SURPLUS) for doing in self._doing.values())

    async def connect(self, *args: Any, **options: Any) -> Any:
        """Open a connection within its `timeout`; `asyncpg.create_pool` calls this.

        Raises `Refused` if waiting cannot help, otherwise what asyncpg raises.
        """
        async with connecting():
            return await self._connect(*args, **options)

    async def _connect(self, *args: Any, **options: Any) -> Any:
        since_ns = time.perf_counter_ns()
        self._connecting += 1
        try:
            async with asyncio.timeout(options["timeout"]):
                connection: Any = await asyncpg.connect(*args, **options)
                await self._greet(connection)
        except Exception as error:
            self._count_error(error)
            raise
        finally:
            self._connecting -= 1
        self._stats.connected((time.perf_counter_ns() - since_ns) // 1000)
        pid = connection.get_server_pid()
        self._doing[pid] = time.perf_counter_ns()
        connection.add_query_logger(self._queried)
        connection.add_termination_listener(functools.partial(self._ended, pid))
        return connection

    async def _greet(self, connection: Any) -> None:
        """Ask since when the server runs, and whether it bounds transactions; cut a connection that does not answer."""
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

    def lent(self, connection: Any) -> int:
        """Record that a caller holds *connection*; returns the process id of its session on the server."""
        pid: int = connection.get_server_pid()
        self._doing[pid] = _LENT
        return pid

    def returning(self, connection: Any, pid: int) -> None:
        """Record that *connection* is being released; a call of `returned` follows."""
        if pid in self._doing:
            self._doing[pid] = _LOST if has_ended(connection) else _RETURNING

    def surplus(self, pid: int) -> None:
        """Record that a connection is being closed because the pool has too many, unless it has ended already."""
        if self._doing.get(pid, _LOST) != _LOST:
            self._doing[pid] = _SURPLUS

    def returned(self, pid: int, now_ns: int) -> None:
        """Record that a connection is idle since *now_ns*, unless it ended while it was released."""
        if self._doing.get(pid) == _RETURNING:
            self._doing[pid] = now_ns

    def _ended(self, pid: int, _connection: Any) -> None:
        doing = self._doing.pop(pid, _LOST)
        self._stats.connections_closed += 1
        if self.closing:
            self._stats.closed_shutdown += 1
        elif doing == _SURPLUS:
            self._stats.closed_surplus += 1
        elif doing == _RETURNING:
            self._stats.closed_used_up += 1
        elif doing < 0:
            self._stats.closed_lost_in_use += 1
        elif 0 < self._max_idle_ns <= time.perf_counter_ns() - doing:
            self._stats.closed_idle += 1
        else:
            self._stats.closed_lost_idle += 1

    def _queried(self, record: Any) -> None:
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


def has_ended(connection: Any) -> bool:
    """Return whether a connection is closed or can no longer be used."""
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # asyncpg has taken it back, since it is of no use any more
        return True
