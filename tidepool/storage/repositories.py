"""Repositories for the library's tables: one class for each table, whose methods run the queries in `sql/`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from uuid import UUID

from pydantic_core import to_json

from tidepool.pool.connection import Connection
from tidepool.storage.queries import Queries
from tidepool.storage.results import ResultRepository
from tidepool.storage.snapshots import Event, Reading, ServerConnections, ServerReading, Snapshot

_SNAPSHOTS = Queries("snapshots")
_PROCESSES = Queries("processes")
_EVENTS = Queries("events")
_SERVER = Queries("server")
_RETENTION = Queries("retention")


class Repositories:
    """The repositories of all tables of the library, for one connection. A repository runs the queries on one table.

    Its methods begin no transaction: the caller begins one if it is needed.
    """

    def __init__(self, connection: Connection) -> None:
        self.results = ResultRepository(connection)
        self.snapshots = _Snapshots(connection)
        self.processes = _Processes(connection)
        self.events = _Events(connection)
        self.server = _ServerSnapshots(connection)
        self.retention = _Retention(connection)


class _Snapshots:
    """Reads and writes the table pool_snapshots, one row for each process and tick, and reads its views.

    A tick is a multiple of the snapshot interval by the server's clock.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sql = _SNAPSHOTS.of(connection.schema)

    async def write(self, snapshots: Sequence[Snapshot]) -> None:
        """Store *snapshots*. A row that exists for the same process and tick stays as it is."""
        await self._connection.execute(self._sql["write"], to_json(snapshots).decode())

    async def newest(
        self, *, worker_id: str | None = None, since: datetime | None = None, limit: int = 20
    ) -> list[dict[str, object]]:
        """Return up to *limit* rows, the newest first; only those of *worker_id*, or from *since* on, if given."""
        rows = await self._connection.fetch(self._sql["newest"], worker_id, since, limit)
        return [dict(row.items()) for row in rows]

    async def pool_health(self, since: datetime) -> list[dict[str, object]]:
        """Return the newest row of the view `pool_health`, a minute of one process, for each live process.

        Minutes before that of *since* do not count.
        """
        return [dict(row.items()) for row in await self._connection.fetch(self._sql["pool_health"], since)]

    async def fleet_health(self, since: datetime) -> list[dict[str, object]]:
        """Return the rows of the view `fleet_health`, all processes minute by minute from *since* on, newest first."""
        return [dict(row.items()) for row in await self._connection.fetch(self._sql["fleet_health"], since)]

    async def window(self, since: datetime, every: timedelta, *, until: datetime) -> list[Reading]:
        """Return snapshots of the processes that are live at *until*: for each process, the last one of each period.

        Periods have the length *every*; the first one begins at *since*.
        """
        rows = await self._connection.fetch(self._sql["window"], since, every, until)
        return [Reading.of(row.items()) for row in rows]

    async def history(self, since: datetime, until: datetime, stretch: timedelta) -> tuple[list[Reading], set[UUID]]:
        """Return snapshots from *since* to *until*: for each process, the last one of each period of length *stretch*.

        If a process has a snapshot from before *since*, the last of these is returned, too. The second part of the
        result has the `instance_id`s of the processes that are live at *until*.
        """
        rows = [dict(row.items()) for row in await self._connection.fetch(self._sql["history"], since, until, stretch)]
        live = {row["instance_id"] for row in rows if row.pop("live")}
        return [Reading.of(row.items()) for row in rows], live

    async def peak(self, since: datetime) -> int:
        """Return the max number of connections that any one process had in use at a time, from *since* on."""
        return await self._connection.fetchval(self._sql["peak"], since)

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows of ticks before *before*; returns how many were deleted."""
        return await self._connection.fetchval(self._sql["prune"], before, limit)

    async def lock_thinning(self) -> bool:
        """Try to lock the task of thinning until the transaction ends; returns False at once if another has it."""
        return await self._connection.fetchval(self._sql["lock_thinning"]) or False

    async def thin(
        self, since: datetime, before: datetime, *, period: timedelta, limit: int = 1000
    ) -> tuple[int, datetime | None]:
        """Thin out snapshots: of each process and *period*, keep only the last one, and write the peaks of all into it.

        Applies to ticks from *since* to *before*. Periods begin at multiples of *period* since 1970, and must be over
        at *before*. Deletes up to *limit* rows, the oldest first; call it in the transaction of `lock_thinning`. Once
        all such rows are deleted, another call changes nothing.

        Returns how many rows were deleted, and the tick of the last one, before which nothing is left to delete; None
        if there was none.
        """
        row = await self._connection.fetchrow(self._sql["thin"], since, before, period, limit)
        assert row is not None, "an aggregate has a row"
        return row["gone"], row["last_tick"]


class _Processes:
    """Reads and writes the table pool_processes, which has one row for each start of a worker process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sql = _PROCESSES.of(connection.schema)

    async def write(self, process: Mapping[str, object]) -> None:
        """Store *process*, whose keys are columns. A row that exists for the same start stays as it is."""
        await self._connection.execute(self._sql["write"], to_json(process).decode())

    async def end(self, instance_id: UUID, reason: str) -> None:
        """Record that the process ends now, and the *reason*."""
        await self._connection.execute(self._sql["end"], instance_id, reason)

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* processes that started before *before* and have no snapshot; returns how many."""
        return await self._connection.fetchval(self._sql["prune"], before, limit)


class _Events:
    """Reads and writes the table pool_events, the log of what happened to processes and their pools."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sql = _EVENTS.of(connection.schema)

    async def write(self, events: Sequence[Event]) -> None:
        """Store *events*. An event that exists stays as it is."""
        await self._connection.execute(self._sql["write"], to_json(events).decode())

    async def newest(self, *, since: datetime, kind: str | None = None, limit: int = 20) -> list[dict[str, object]]:
        """Return up to *limit* events after *since*, of one *kind* or of all, the newest first."""
        rows = await self._connection.fetch(self._sql["newest"], since, kind, limit)
        return [{**dict(row.items()), "detail": json.loads(row["detail"])} for row in rows]

    async def lock_advice(self) -> bool:
        """Try to lock the task of giving advice until the transaction ends; returns False at once if another has it."""
        return await self._connection.fetchval(self._sql["lock_advice"]) or False

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows from before *before*; returns how many were deleted."""
        return await self._connection.fetchval(self._sql["prune"], before, limit)


class _ServerSnapshots:
    """Reads and writes the table db_snapshots, which has the state of the database server, one row for each tick."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sql = _SERVER.of(connection.schema)

    async def write(self, tick: datetime, worker_id: str, connections: ServerConnections) -> None:
        """Store the state of the server, unless another process has stored it for this tick."""
        await self._connection.execute(self._sql["write"], tick, worker_id, json.dumps(asdict(connections)))

    async def clock(self) -> datetime:
        """Return the present time by the server's clock, on which the ticks of all processes are based."""
        return await self._connection.fetchval(self._sql["clock"])

    async def newest(self) -> dict[str, object] | None:
        """Return the newest row as a dictionary, or None if there is no row."""
        row = await self._connection.fetchrow(self._sql["newest"])
        return None if row is None else dict(row.items())

    async def window(self, since: datetime) -> list[ServerReading]:
        """Return the rows of ticks from *since* on, the oldest first."""
        return [ServerReading(**dict(row.items())) for row in await self._connection.fetch(self._sql["window"], since)]

    async def thin(self, since: datetime, before: datetime, *, period: timedelta) -> int:
        """Delete the rows from *since* to *before* except the last of each *period*; returns how many were deleted."""
        return await self._connection.fetchval(self._sql["thin"], since, before, period)

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows from before *before*; returns how many were deleted."""
        return await self._connection.fetchval(self._sql["prune"], before, limit)


class _Retention:
    """Reads and writes the table retention: how many days the processes that use this database want rows to be kept."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sql = _RETENTION.of(connection.schema)

    async def longest(self, own: Mapping[str, float]) -> dict[str, float]:
        """Return for each kind of rows the longest retention, in days, that any process wanted in the last seven days.

        *own* is what this process wants, in days by kind of rows. It is stored first.
        """
        await self._connection.execute(self._sql["want"], list(own), list(own.values()))
        return {row["kind"]: row["days"] for row in await self._connection.fetch(self._sql["longest"], list(own))}
