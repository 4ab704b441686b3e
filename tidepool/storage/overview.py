"""What an overview of the whole service reads, across the tables: each query cheap however long they are."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from tidepool.pool.connection import Connection
from tidepool.storage import queries
from tidepool.storage.snapshots import Reading

_SQL = queries.load("overview")


class History(NamedTuple):
    """The snapshots of a time."""

    readings: list[Reading]
    live: set[UUID]
    """The `instance_id`s of the processes that are live at its end."""


class Overview:
    """Over one connection; writes nothing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def history(self, since: datetime, until: datetime, stretch: timedelta) -> History:
        """Return of each process the last row of each *stretch*, and one from before *since* if there is one."""
        rows = [dict(row.items()) for row in await self._connection.fetch(_SQL["history"], since, until, stretch)]
        live = {row["instance_id"] for row in rows if row.pop("live")}
        return History([Reading.of(row.items()) for row in rows], live)

    async def server(self) -> dict[str, Any] | None:
        """Return the newest row of `db_snapshots`."""
        row = await self._connection.fetchrow(_SQL["server"])
        return None if row is None else dict(row.items())

    async def has_results(self) -> bool:
        """Return whether any job has an outcome."""
        return await self._connection.fetchval(_SQL["has_results"])
