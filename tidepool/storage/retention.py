"""The retention table: how long the processes that use this database want rows to be kept."""

from collections.abc import Mapping

from tidepool.pool.connection import Connection
from tidepool.storage import queries

_SQL = queries.load("retention")


class RetentionRepository:
    """Wishes for retention, over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def longest(self, own: Mapping[str, float]) -> dict[str, float]:
        """Store this process's *own* wishes, days by kind; return the longest of the last seven days by kind."""
        await self._connection.execute(_SQL["want"], list(own), list(own.values()))
        return {row["kind"]: row["days"] for row in await self._connection.fetch(_SQL["longest"], list(own))}
