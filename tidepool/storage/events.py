"""The pool_events table: what happened to processes and their pools."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from tidepool.pool.connection import Connection
from tidepool.storage import queries

_SQL = queries.load("events")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a process or its pool; *detail* is ready for JSON."""

    instance_id: UUID
    worker_id: str
    at: datetime
    kind: str
    detail: Mapping[str, object]


class EventRepository:
    """Events, over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, events: Sequence[Event]) -> None:
        """Store *events*. One that is stored already is left as it is."""
        await self._connection.execute(_SQL["write"], to_json(events).decode())

    async def newest(self, *, since: datetime, kind: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """Return up to *limit* rows since then, of that kind or of any, the newest first."""
        rows = await self._connection.fetch(_SQL["newest"], since, kind, limit)
        return [{**dict(row.items()), "detail": json.loads(row["detail"])} for row in rows]

    async def lock_advice(self) -> bool:
        """Become the only one that advises until the transaction ends; returns False, at once, where another does."""
        return await self._connection.fetchval(_SQL["lock_advice"]) or False

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows from before *before*; returns how many were there."""
        return await self._connection.fetchval(_SQL["prune"], before, limit)
