"""The db_snapshots table: how the database server was, one row a tick."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from tidepool.pool.connection import Connection
from tidepool.storage import queries

_SQL = queries.load("server")


class ServerRepository:
    """Snapshots of the server, over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, tick: datetime, worker_id: str, capacity: Mapping[str, Any]) -> None:
        """Store how the server is now, unless somebody has for this tick.

        *capacity* has the columns that the budget of connections knows, by name.
        """
        await self._connection.execute(_SQL["write"], tick, worker_id, json.dumps(dict(capacity)))

    async def clock(self) -> datetime:
        """Return the server's time, which rows are as old as."""
        return await self._connection.fetchval(_SQL["clock"])

    async def window(self, since: datetime) -> list[dict[str, Any]]:
        """Return the rows since then, the oldest first."""
        return [dict(row.items()) for row in await self._connection.fetch(_SQL["window"], since)]

    async def thin(self, since: datetime, before: datetime, *, period: timedelta) -> int:
        """Of the ticks from *since* to *before* keep the last of each *period*; returns how many were deleted."""
        return await self._connection.fetchval(_SQL["thin"], since, before, period)

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows from before *before*; returns how many were there."""
        return await self._connection.fetchval(_SQL["prune"], before, limit)
