"""Buffers the records of one process, which are its start and end, its snapshots and its events, and writes them.

The records are written over a connection outside the pool, so that they never wait behind the pool that they report on.
While PostgreSQL is unavailable they stay in memory, up to a bound above which the oldest are dropped, and are written
when PostgreSQL is back; a snapshot that had to wait is marked as late. Writing a record again, because the reply to the
first write was lost, changes nothing.
"""

import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import structlog

from tidepool.fleet.identity import Identity
from tidepool.pool.faults import DatabaseFault
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.repositories import Repositories
from tidepool.storage.snapshots import Event, ServerConnections, Snapshot

log = structlog.get_logger(__name__)

_MAX_KEPT = 720
"""Snapshots, and events, that wait for PostgreSQL: those of an hour at the default interval."""

T = TypeVar("T")


class Journal:
    """Buffers the records of one process (its start and end, snapshots, events) and writes them to PostgreSQL.

    *about* has the columns `versions` and `config` of the process's row in `pool_processes`. *server* returns the
    connection figures of the database server, which are written with the newest snapshot, or None if they are not
    known.
    """

    def __init__(
        self,
        identity: Identity,
        side: SideConnection,
        *,
        about: Mapping[str, Mapping[str, object]],
        server: Callable[[], ServerConnections | None] = lambda: None,
    ) -> None:
        self.identity = identity
        self._side = side
        self._about = about
        self._server = server
        self._offset = timedelta(0)
        """How far PostgreSQL's clock is ahead of this process's own, as measured by the last write."""
        self._introduced = False
        self._end_reason: str | None = None
        self._snapshots: deque[Snapshot] = deque(maxlen=_MAX_KEPT)
        self._missed: datetime | None = None
        """The newest tick that could not be written; None if the last write succeeded."""
        self._events: deque[Event] = deque(maxlen=_MAX_KEPT)

    def now(self) -> datetime:
        """Return the current time by PostgreSQL's clock, so that records agree even if the processes' clocks do not.

        Until the first write it is the time by this process's own clock.
        """
        return datetime.now(UTC) + self._offset

    def started_at(self) -> datetime:
        """Return when this process started, by PostgreSQL's clock if that is known yet."""
        return self.identity.started_at + self._offset

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Add a snapshot to the records that the next `write` writes."""
        self._snapshots.append(snapshot)

    def add_event(self, kind: str, detail: Mapping[str, object]) -> None:
        """Log an event as a warning, and add it to the records that the next `write` writes."""
        self._events.append(self.event(kind, detail))

    def event(self, kind: str, detail: Mapping[str, object]) -> Event:
        """Log an event as a warning and return it. For a caller that writes the event in a transaction of its own."""
        log.warning("pool.event", kind=kind, **detail)
        return Event(self.identity.instance_id, self.identity.worker_id, self.now(), kind, detail)

    async def write(self) -> None:
        """Write all buffered records to PostgreSQL. If that fails with a `DatabaseFault`, log a warning and keep them.

        Records that were kept are written by the next call.
        """
        snapshots, events = list(self._snapshots), list(self._events)
        try:
            async with self._side.use() as connection:
                await self._write(Repositories(connection), snapshots, events)
        except DatabaseFault as fault:
            log.warning("snapshot.late", kept=len(self._snapshots), error=str(fault))
            self._missed = snapshots[-1].tick if snapshots else self._missed
            return
        self._missed = None
        _drop(self._snapshots, snapshots)
        _drop(self._events, events)

    async def _write(self, repositories: Repositories, snapshots: list[Snapshot], events: list[Event]) -> None:
        began = datetime.now(UTC)
        clock = await repositories.server.clock()
        self._offset = clock - (began + (datetime.now(UTC) - began) / 2)
        if not self._introduced:
            await repositories.processes.write(self._introduction())
            self._introduced = True
        if snapshots:
            await repositories.snapshots.write([self._stamped(snapshot) for snapshot in snapshots])
        if events:
            await repositories.events.write(events)
        if snapshots and (server := self._server()):
            await repositories.server.write(snapshots[-1].tick, self.identity.worker_id, server)
        if self._end_reason:
            await repositories.processes.end(self.identity.instance_id, self._end_reason)

    def _stamped(self, snapshot: Snapshot) -> Snapshot:
        is_late = self._missed is not None and snapshot.tick <= self._missed
        return replace(snapshot, written_at=self.now(), late=is_late)

    async def close(self, reason: str) -> None:
        """Write the buffered records and the end of the process, with its *reason*.

        Makes one attempt: if PostgreSQL is unavailable, the records are lost.
        """
        self._end_reason = reason
        await self.write()

    def _introduction(self) -> Mapping[str, object]:
        identity = self.identity
        return {
            "instance_id": identity.instance_id,
            "worker_id": identity.worker_id,
            "host": identity.host,
            "pid": os.getpid(),
            "started_at": self.started_at(),
            **self._about,
        }


def _drop(kept: deque[T], written: list[T]) -> None:
    """Remove the *written* records from *kept*; to keep to the bound, the oldest may have been dropped already."""
    for record in written:
        if kept and kept[0] is record:
            kept.popleft()
