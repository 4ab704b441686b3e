"""The pool_snapshots table."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from tidepool.pool.connection import Connection
from tidepool.storage import queries

_SQL = queries.load("snapshots")


class Thinned(NamedTuple):
    """What one batch of thinning did."""

    gone: int
    last_tick: datetime | None
    """Of the last row that is gone: before it there is nothing left to do. None where nothing is."""


class SnapshotRepository:
    """Pool snapshots, over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, samples: Sequence[dict[str, Any]]) -> None:
        """Store *samples*, JSON-ready rows by column name. One that is stored already is left alone."""
        await self._connection.execute(_SQL["write"], json.dumps(samples))

    async def newest(
        self, *, worker_id: str | None = None, since: datetime | None = None, limit: int = 20
    ) -> list[dict[str, Any]]:
        """Return up to *limit* rows, the newest first."""
        rows = await self._connection.fetch(_SQL["newest"], worker_id, since, limit)
        return [dict(row.items()) for row in rows]

    async def pool_health(self, since: datetime) -> list[dict[str, Any]]:
        """Return the last minute of each live process that wrote a snapshot since then; see the view of that name."""
        return [dict(row.items()) for row in await self._connection.fetch(_SQL["pool_health"], since)]

    async def fleet_health(self, since: datetime) -> list[dict[str, Any]]:
        """Return the fleet's minutes since then, the newest first; see the view of that name."""
        return [dict(row.items()) for row in await self._connection.fetch(_SQL["fleet_health"], since)]

    async def window(self, since: datetime, every: timedelta, *, until: datetime) -> list[dict[str, Any]]:
        """Return what verdicts need of the rows since then: each process's last one in each stretch of *every*.

        Of the processes that are live at *until*.
        """
        return [dict(row.items()) for row in await self._connection.fetch(_SQL["window"], since, every, until)]

    async def peak(self, since: datetime) -> int:
        """Return the most connections that one process had in use at a time since then."""
        return await self._connection.fetchval(_SQL["peak"], since)

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows of ticks before *before*; returns how many were there."""
        return await self._connection.fetchval(_SQL["prune"], before, limit)

    async def lock_thinning(self) -> bool:
        """Become the only one that thins until the transaction ends; returns False, at once, where another does."""
        return await self._connection.fetchval(_SQL["lock_thinning"]) or False

    async def thin(self, since: datetime, before: datetime, *, period: timedelta, limit: int = 1000) -> Thinned:
        """Keep one row of each process and *period* between *since* and *before*: the last one, with all their peaks.

        Periods are counted from 1970, and must be over at *before*. Deletes up to *limit* rows, the oldest first, in
        the transaction of `lock_thinning`. What is thinned already stays as it is.
        """
        row = await self._connection.fetchrow(_SQL["thin"], since, before, period, limit)
        assert row is not None, "an aggregate has a row"
        return Thinned(row["gone"], row["last_tick"])
