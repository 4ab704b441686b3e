"""The library's tables, over one connection: a repository for each, whose queries are in `sql/`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import NamedTuple
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
    """The result of one batch of thinning."""

    gone: int
    """Rows that were deleted."""
    last_tick: datetime | None
    """The tick of the last deleted row: nothing is left to thin before it. None if no row was deleted."""


class _Snapshots:
    """The table pool_snapshots, and the views of it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, snapshots: Sequence[Snapshot]) -> None:
        """Store *snapshots*. A row that exists for the same process and tick stays as it is."""
        await self._connection.execute(_SNAPSHOTS["write"], to_json(snapshots).decode())

    async def newest(
        self, *, worker_id: str | None = None, since: datetime | None = None, limit: int = 20
    ) -> list[dict[str, object]]:
        """Return up to *limit* rows, the newest first."""
        rows = await self._connection.fetch(_SNAPSHOTS["newest"], worker_id, since, limit)
        return [dict(row.items()) for row in rows]

    async def pool_health(self, since: datetime) -> list[dict[str, object]]:
        """Return the last minute of each live process that wrote one after *since*; see the view `pool_health`."""
        return [dict(row.items()) for row in await self._connection.fetch(_SNAPSHOTS["pool_health"], since)]

    async def fleet_health(self, since: datetime) -> list[dict[str, object]]:
        """Return the minutes of all processes together after *since*, the newest first; see the view `fleet_health`."""
        return [dict(row.items()) for row in await self._connection.fetch(_SNAPSHOTS["fleet_health"], since)]

    async def window(self, since: datetime, every: timedelta, *, until: datetime) -> list[Reading]:
        """Return the last snapshot after *since* of each process that is live at *until* and each period of *every*."""
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
        """Return the max number of connections that one process had in use at a time after *since*."""
        return await self._connection.fetchval(_SNAPSHOTS["peak"], since)

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows of ticks before *before*; returns how many were deleted."""
        return await self._connection.fetchval(_SNAPSHOTS["prune"], before, limit)

    async def lock_thinning(self) -> bool:
        """Lock the task of thinning until the transaction ends. Returns False, at once, if another process has it."""
        return await self._connection.fetchval(_SNAPSHOTS["lock_thinning"]) or False

    async def thin(self, since: datetime, before: datetime, *, period: timedelta, limit: int = 1000) -> Thinned:
        """Keep one row of each process and *period* between *since* and *before*: the last one, with the peaks of all.

        Periods begin at multiples of *period* since 1970, and must be over at *before*. Deletes up to *limit* rows, the
        oldest first; call it in the transaction of `lock_thinning`. A second call changes nothing.
        """
        row = await self._connection.fetchrow(_SNAPSHOTS["thin"], since, before, period, limit)
        assert row is not None, "an aggregate has a row"
        return Thinned(row["gone"], row["last_tick"])


class _Processes:
    """The table pool_processes: one row for each start of a worker process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, process: Mapping[str, object]) -> None:
        """Store *process*, whose keys are columns. A row that exists for the same start stays as it is."""
        await self._connection.execute(_PROCESSES["write"], to_json(process).decode())

    async def end(self, instance_id: UUID, reason: str) -> None:
        """Set the time at which the process ended, which is now, and the reason."""
        await self._connection.execute(_PROCESSES["end"], instance_id, reason)

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* processes that started before *before* and have no snapshot; returns how many."""
        return await self._connection.fetchval(_PROCESSES["prune"], before, limit)


class _Events:
    """The table pool_events: what happened to processes and their pools."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, events: Sequence[Event]) -> None:
        """Store *events*. An event that exists stays as it is."""
        await self._connection.execute(_EVENTS["write"], to_json(events).decode())

    async def newest(self, *, since: datetime, kind: str | None = None, limit: int = 20) -> list[dict[str, object]]:
        """Return up to *limit* events after *since*, of one *kind* or of all, the newest first."""
        rows = await self._connection.fetch(_EVENTS["newest"], since, kind, limit)
        return [{**dict(row.items()), "detail": json.loads(row["detail"])} for row in rows]

    async def lock_advice(self) -> bool:
        """Lock the task of advising until the transaction ends. Returns False, at once, if another process has it."""
        return await self._connection.fetchval(_EVENTS["lock_advice"]) or False

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows from before *before*; returns how many were deleted."""
        return await self._connection.fetchval(_EVENTS["prune"], before, limit)


class _Server:
    """The table db_snapshots: the state of the database server, one row for each tick."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, tick: datetime, worker_id: str, connections: ServerConnections) -> None:
        """Store the state of the server, unless another process has stored it for this tick."""
        await self._connection.execute(_SERVER["write"], tick, worker_id, json.dumps(asdict(connections)))

    async def clock(self) -> datetime:
        """Return the server's time. Rows carry times of this clock."""
        return await self._connection.fetchval(_SERVER["clock"])

    async def newest(self) -> dict[str, object] | None:
        """Return the newest row, or None if there is no row."""
        row = await self._connection.fetchrow(_SERVER["newest"])
        return None if row is None else dict(row.items())

    async def window(self, since: datetime) -> list[ServerReading]:
        """Return the rows after *since*, the oldest first."""
        return [ServerReading(**dict(row.items())) for row in await self._connection.fetch(_SERVER["window"], since)]

    async def thin(self, since: datetime, before: datetime, *, period: timedelta) -> int:
        """Keep the last row of each *period* from *since* to *before*; returns how many rows were deleted."""
        return await self._connection.fetchval(_SERVER["thin"], since, before, period)

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows from before *before*; returns how many were deleted."""
        return await self._connection.fetchval(_SERVER["prune"], before, limit)


class _Retention:
    """The table retention: for how long the processes that use this database want rows to be kept."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def longest(self, own: Mapping[str, float]) -> dict[str, float]:
        """Store this process's *own* retention, days by kind; return the longest one of the last seven days by kind."""
        await self._connection.execute(_RETENTION["want"], list(own), list(own.values()))
        return {row["kind"]: row["days"] for row in await self._connection.fetch(_RETENTION["longest"], list(own))}
