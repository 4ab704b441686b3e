"""What one process has to tell and has not written yet: its start, its samples, its events.

They are written over a connection of their own, which never waits behind the pool that they report on. While
PostgreSQL is away they are kept, up to a bound, and written when it is back; a row that had to wait says so.
Writing again what was written already, because the answer was lost, changes nothing.
"""

import os
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from tidepool.fleet.identity import Identity
from tidepool.pool.faults import DatabaseFault
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.repositories import Repositories

log = structlog.get_logger(__name__)

_MOST_KEPT = 720
"""Of samples, and of events, that wait for PostgreSQL: an hour's at the default interval."""


class Journal:
    """Keeps and writes the rows of one process.

    *about* tells how it is set up (`versions` and `config`); *server* what the database's own row says of connections,
    or None where that is not known.
    """

    def __init__(
        self,
        identity: Identity,
        side: SideConnection,
        *,
        about: dict[str, dict[str, Any]],
        server: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        self._identity = identity
        self._side = side
        self._about = about
        self._server = server
        self._introduced = False
        self._end_reason: str | None = None
        self._samples: deque[dict[str, Any]] = deque(maxlen=_MOST_KEPT)
        self._events: deque[dict[str, Any]] = deque(maxlen=_MOST_KEPT)

    def add_sample(self, figures: dict[str, Any]) -> dict[str, Any]:
        """Keep a row of `pool_snapshots`, to which what is the same in all of them is added; returns it."""
        identity = self._identity
        sample = {
            "instance_id": identity.instance_id,
            "worker_id": identity.worker_id,
            "host": identity.host,
            "pid": os.getpid(),
            "started_at": identity.started_at.isoformat(),
            "captured_at": datetime.now(UTC).isoformat(),
            "late": False,
            **figures,
        }
        self._samples.append(sample)
        return sample

    def add_event(self, kind: str, detail: dict[str, Any]) -> None:
        """Keep a row of `pool_events`, and log it."""
        self._events.append(self.event(kind, detail))

    def event(self, kind: str, detail: dict[str, Any]) -> dict[str, Any]:
        """Return a row of `pool_events` for whoever writes it in a transaction of their own, and log it."""
        log.warning("pool.event", kind=kind, **detail)
        return {
            "instance_id": self._identity.instance_id,
            "worker_id": self._identity.worker_id,
            "at": datetime.now(UTC).isoformat(),
            "kind": kind,
            "detail": detail,
        }

    async def write(self) -> None:
        """Write what is kept; what cannot be written stays for the next call."""
        samples, events = list(self._samples), list(self._events)
        for sample in samples:
            sample["written_at"] = datetime.now(UTC).isoformat()
        try:
            async with self._side.use() as connection:
                write = Repositories(connection)
                if not self._introduced:
                    await write.processes.write(self._introduction())
                    self._introduced = True
                if samples:
                    await write.snapshots.write(samples)
                if events:
                    await write.events.write(events)
                if samples and (server := self._server()):
                    tick = datetime.fromisoformat(samples[-1]["tick"])
                    await write.server.write(tick, self._identity.worker_id, server)
                if self._end_reason:
                    await write.processes.end(self._identity.instance_id, self._end_reason)
        except DatabaseFault as fault:
            log.warning("snapshot.late", kept=len(self._samples), error=str(fault))
            for sample in samples:
                sample["late"] = True
            return
        _drop(self._samples, samples)
        _drop(self._events, events)

    async def close(self, reason: str) -> None:
        """Write what is kept and that the process has ended, as far as PostgreSQL allows."""
        self._end_reason = reason
        await self.write()

    def _introduction(self) -> dict[str, Any]:
        identity = self._identity
        return {
            "instance_id": identity.instance_id,
            "worker_id": identity.worker_id,
            "host": identity.host,
            "pid": os.getpid(),
            "started_at": identity.started_at.isoformat(),
            **self._about,
        }


def _drop(kept: deque[dict[str, Any]], written: list[dict[str, Any]]) -> None:
    """Take out what was written; the oldest may have fallen out by themselves meanwhile."""
    for row in written:
        if kept and kept[0] is row:
            kept.popleft()
