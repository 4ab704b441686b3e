"""The library's tables, over one connection: a repository for each, whose queries are in `sql/`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from pydantic_core import to_json

from tidepool.pool.connection import Connection
from tidepool.storage import queries
from tidepool.storage.results import ResultRepository
from tidepool.storage.server import ServerConnections, ServerReading
from tidepool.storage.snapshots import Event, Reading, Snapshot

_SNAPSHOTS = queries.load("snapshots")
_PROCESSES = queries.load("processes")
_EVENTS = queries.load("events")
_SERVER = queries.load("server")
_RETENTION = queries.load("retention")


class Repositories:
    """The repositories over one connection. They open no transaction."""

    def __init__(self, connection: Connection) -> None:
        self.results = ResultRepository(connection)
        self.snapshots = _Snapshots(connection)
        self.processes = _Processes(connection)
        self.events = _Events(connection)
        self.server = _Server(connection)
        self.retention = _Retention(connection)


class Thinned(NamedTuple):
    """What one batch of thinning did."""

    gone: int
    last_tick: datetime | None
    """Of the last row that is gone: before it there is nothing left to do. None where nothing is."""


class _Snapshots:
    """The table pool_snapshots, and the views of it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, snapshots: Sequence[Snapshot]) -> None:
        """Store *snapshots*. One whose process and tick are stored already is left as it is."""
        await self._connection.execute(_SNAPSHOTS["write"], to_json(snapshots).decode())

    async def newest(
        self, *, worker_id: str | None = None, since: datetime | None = None, limit: int = 20
    ) -> list[dict[str, Any]]:
        """Return up to *limit* rows, the newest first."""
        rows = await self._connection.fetch(_SNAPSHOTS["newest"], worker_id, since, limit)
        return [dict(row.items()) for row in rows]

    async def pool_health(self, since: datetime) -> list[dict[str, Any]]:
        """Return the last minute of each live process that wrote a snapshot since then; see the view of that name."""
        return [dict(row.items()) for row in await self._connection.fetch(_SNAPSHOTS["pool_health"], since)]

    async def fleet_health(self, since: datetime) -> list[dict[str, Any]]:
        """Return the fleet's minutes since then, the newest first; see the view of that name."""
        return [dict(row.items()) for row in await self._connection.fetch(_SNAPSHOTS["fleet_health"], since)]

    async def window(self, since: datetime, every: timedelta, *, until: datetime) -> list[Reading]:
        """Return the last snapshot of each stretch of *every* since then, of each process that is live at *until*."""
        rows = await self._connection.fetch(_SNAPSHOTS["window"], since, every, until)
        return [Reading.of(row.items()) for row in rows]

    async def history(self, since: datetime, until: datetime, stretch: timedelta) -> tuple[list[Reading], set[UUID]]:
        """Return the last snapshot of each process and *stretch*, and one from before *since* if there is one.

        Also returns the `instance_id`s of the processes that are live at *until*.
        """
        rows = [dict(row.items()) for row in await self._connection.fetch(_SNAPSHOTS["history"], since, until, stretch)]
        live = {row["instance_id"] for row in rows if row.pop("live")}
        return [Reading.of(row.items()) for row in rows], live

    async def peak(self, since: datetime) -> int:
        """Return the most connections that one process had in use at a time since then."""
        return await self._connection.fetchval(_SNAPSHOTS["peak"], since)

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows of ticks before *before*; returns how many were there."""
        return await self._connection.fetchval(_SNAPSHOTS["prune"], before, limit)

    async def lock_thinning(self) -> bool:
        """Become the only one that thins until the transaction ends; returns False, at once, where another does."""
        return await self._connection.fetchval(_SNAPSHOTS["lock_thinning"]) or False

    async def thin(self, since: datetime, before: datetime, *, period: timedelta, limit: int = 1000) -> Thinned:
        """Keep one row of each process and *period* between *since* and *before*: the last one, with all their peaks.

        Periods are counted from 1970, and must be over at *before*. Deletes up to *limit* rows, the oldest first, in
        the transaction of `lock_thinning`. What is thinned already stays as it is.
        """
        row = await self._connection.fetchrow(_SNAPSHOTS["thin"], since, before, period, limit)
        assert row is not None, "an aggregate has a row"
        return Thinned(row["gone"], row["last_tick"])


class _Processes:
    """The table pool_processes: one row for each start of a worker process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, process: Mapping[str, object]) -> None:
        """Store *process*, a JSON-ready row by column name. One that is stored already is left alone."""
        await self._connection.execute(_PROCESSES["write"], to_json(process).decode())

    async def end(self, instance_id: UUID, reason: str) -> None:
        """Set when and why the process ended."""
        await self._connection.execute(_PROCESSES["end"], instance_id, reason)

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows of processes that started before then and have no snapshot; returns how many."""
        return await self._connection.fetchval(_PROCESSES["prune"], before, limit)


class _Events:
    """The table pool_events: what happened to processes and their pools."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, events: Sequence[Event]) -> None:
        """Store *events*. One that is stored already is left as it is."""
        await self._connection.execute(_EVENTS["write"], to_json(events).decode())

    async def newest(self, *, since: datetime, kind: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """Return up to *limit* rows since then, of that kind or of any, the newest first."""
        rows = await self._connection.fetch(_EVENTS["newest"], since, kind, limit)
        return [{**dict(row.items()), "detail": json.loads(row["detail"])} for row in rows]

    async def lock_advice(self) -> bool:
        """Become the only one that advises until the transaction ends; returns False, at once, where another does."""
        return await self._connection.fetchval(_EVENTS["lock_advice"]) or False

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows from before *before*; returns how many were there."""
        return await self._connection.fetchval(_EVENTS["prune"], before, limit)


class _Server:
    """The table db_snapshots: the state of the database server, one row for each tick."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, tick: datetime, worker_id: str, connections: ServerConnections) -> None:
        """Store how the server is now, unless another process has stored that for this tick."""
        await self._connection.execute(_SERVER["write"], tick, worker_id, json.dumps(asdict(connections)))

    async def clock(self) -> datetime:
        """Return the server's time, which rows are as old as."""
        return await self._connection.fetchval(_SERVER["clock"])

    async def newest(self) -> dict[str, Any] | None:
        """Return the newest row, or None if there is no row."""
        row = await self._connection.fetchrow(_SERVER["newest"])
        return None if row is None else dict(row.items())

    async def window(self, since: datetime) -> list[ServerReading]:
        """Return the rows since then, the oldest first."""
        return [ServerReading(**dict(row.items())) for row in await self._connection.fetch(_SERVER["window"], since)]

    async def thin(self, since: datetime, before: datetime, *, period: timedelta) -> int:
        """Of the ticks from *since* to *before* keep the last of each *period*; returns how many were deleted."""
        return await self._connection.fetchval(_SERVER["thin"], since, before, period)

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows from before *before*; returns how many were there."""
        return await self._connection.fetchval(_SERVER["prune"], before, limit)


class _Retention:
    """The table retention: for how long the processes that use this database want rows to be kept."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def longest(self, own: Mapping[str, float]) -> dict[str, float]:
        """Store this process's *own* wishes, days by kind; return the longest of the last seven days by kind."""
        await self._connection.execute(_RETENTION["want"], list(own), list(own.values()))
        return {row["kind"]: row["days"] for row in await self._connection.fetch(_RETENTION["longest"], list(own))}
