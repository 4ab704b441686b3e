"""The db_snapshots table: how the database server was, one row a tick."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from tidepool.pool.connection import Connection
from tidepool.storage import queries

_SQL = queries.load("server")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConnections:
    """The server's limits on connections, and who has them: the columns that the connection budget knows."""

    max_connections: int
    reserved_connections: int
    role_limit: int | None
    """None: the role has no limit of its own."""
    database_limit: int | None
    backends: int
    """Connections of clients, in all databases."""
    backends_of_workers: int
    backends_orphaned: int
    """Connections of workers that are not live any more."""
    workers: int
    granted: int
    """Connections that all workers hold together."""
    usable: int
    """Connections that all workers may have together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReading(ServerConnections):
    """The part of a row that verdicts and the page read; the counts of sessions are of this database."""

    tick: datetime
    active: int
    waiting_lock: int


class ServerRepository:
    """Snapshots of the server, over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, tick: datetime, worker_id: str, connections: ServerConnections) -> None:
        """Store how the server is now, unless another process has stored that for this tick."""
        await self._connection.execute(_SQL["write"], tick, worker_id, json.dumps(asdict(connections)))

    async def clock(self) -> datetime:
        """Return the server's time, which rows are as old as."""
        return await self._connection.fetchval(_SQL["clock"])

    async def window(self, since: datetime) -> list[ServerReading]:
        """Return the rows since then, the oldest first."""
        return [ServerReading(**dict(row.items())) for row in await self._connection.fetch(_SQL["window"], since)]

    async def thin(self, since: datetime, before: datetime, *, period: timedelta) -> int:
        """Of the ticks from *since* to *before* keep the last of each *period*; returns how many were deleted."""
        return await self._connection.fetchval(_SQL["thin"], since, before, period)

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows from before *before*; returns how many were there."""
        return await self._connection.fetchval(_SQL["prune"], before, limit)
