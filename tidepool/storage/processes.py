"""The pool_processes table: one row for each start of a worker process."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from pydantic_core import to_json

from tidepool.pool.connection import Connection
from tidepool.storage import queries

_SQL = queries.load("processes")


class ProcessRepository:
    """Process starts, over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, process: Mapping[str, object]) -> None:
        """Store *process*, a JSON-ready row by column name. One that is stored already is left alone."""
        await self._connection.execute(_SQL["write"], to_json(process).decode())

    async def end(self, instance_id: UUID, reason: str) -> None:
        """Set when and why the process ended."""
        await self._connection.execute(_SQL["end"], instance_id, reason)

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows of processes that started before then and have no snapshot; returns how many."""
        return await self._connection.fetchval(_SQL["prune"], before, limit)
