"""Keeps the records of one process until they are written: its start, its snapshots and its events.

They are written over a connection of their own, which never waits behind the pool that they report on. While
PostgreSQL is away they are kept, up to a bound, and written when it is back; a snapshot that had to wait is marked as
late. Writing a record again, because the reply to the first write was lost, changes nothing.
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
from tidepool.storage.server import ServerConnections
from tidepool.storage.snapshots import Event, Snapshot

log = structlog.get_logger(__name__)

_MAX_KEPT = 720
"""Snapshots, and events, that wait for PostgreSQL: those of an hour at the default interval."""

T = TypeVar("T")


class Journal:
    """Keeps and writes the records of one process.

    *about* has the `versions` and the `config` of its row in `pool_processes`; *server* returns what the row of the
    database server says of connections, or None if that is not known.
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
        """What PostgreSQL's clock is ahead of ours, as of the last write."""
        self._introduced = False
        self._end_reason: str | None = None
        self._snapshots: deque[Snapshot] = deque(maxlen=_MAX_KEPT)
        self._missed: datetime | None = None
        """The newest tick that could not be written; None if the last write succeeded."""
        self._events: deque[Event] = deque(maxlen=_MAX_KEPT)

    def now(self) -> datetime:
        """Return the time by PostgreSQL's clock, so that the records of all processes agree whatever their clocks say.

        Until the first write it is this process's own clock's.
        """
        return datetime.now(UTC) + self._offset

    def started_at(self) -> datetime:
        """Return when the process started, by the same clock."""
        return self.identity.started_at + self._offset

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot until it is written."""
        self._snapshots.append(snapshot)

    def add_event(self, kind: str, detail: Mapping[str, object]) -> None:
        """Log an event, and keep it until it is written."""
        self._events.append(self.event(kind, detail))

    def event(self, kind: str, detail: Mapping[str, object]) -> Event:
        """Log an event and return it to a caller that writes it in the caller's own transaction."""
        log.warning("pool.event", kind=kind, **detail)
        return Event(self.identity.instance_id, self.identity.worker_id, self.now(), kind, detail)

    async def write(self) -> None:
        """Write all kept records; if PostgreSQL is unavailable, they stay for the next call."""
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
        """Write the kept records and the end of the process; gives up if PostgreSQL is unavailable."""
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
    """Take out what was written; the oldest may have been dropped meanwhile, to keep to the bound."""
    for record in written:
        if kept and kept[0] is record:
            kept.popleft()
