"""What an overview of the whole service reads, across the tables: each query cheap however long they are."""

import json
from datetime import datetime, timedelta
from typing import Any

from tidepool.pool.connection import Connection
from tidepool.storage import queries

_SQL = queries.load("overview")


class Overview:
    """Over one connection; writes nothing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def history(self, since: datetime, until: datetime, stretch: timedelta) -> list[dict[str, Any]]:
        """Return of each process the last row of each *stretch*, and one from before *since* where there is one.

        `live` says whether the process is live at *until*.
        """
        rows = await self._connection.fetch(_SQL["history"], since, until, stretch)
        return [{**dict(row.items()), "functions": json.loads(row["functions"] or "{}")} for row in rows]

    async def server(self) -> dict[str, Any] | None:
        """Return the newest row of `db_snapshots`."""
        row = await self._connection.fetchrow(_SQL["server"])
        return None if row is None else dict(row.items())

    async def has_results(self) -> bool:
        """Return whether any job has an outcome."""
        return await self._connection.fetchval(_SQL["has_results"])
