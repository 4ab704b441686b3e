"""Reads the pool snapshots of the worker processes, from which `tidepool why` and `advise` judge the pools' sizes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self

from tidepool.advice.window import Tick, Window
from tidepool.pool.connection import Connection
from tidepool.storage.repositories import Repositories
from tidepool.storage.snapshots import Reading, ServerReading

_MAX_ROWS = 360
"""Snapshots of one process, in a window and the same time before it: a longer time is read at a lower resolution."""
_PEAK_TIME = timedelta(days=7)
"""A pool that is full once a week has to be as large as that."""


@dataclass(frozen=True, slots=True)
class Study:
    """The data by which a group of worker processes is judged: what limits them, and whether their pools fit.

    A group are the processes with the same pool size and the same number of callers (tasks that use the pool at a time)
    that are live at *until*.
    """

    window: Window
    before: Window
    """As long a time before the window."""
    database: Sequence[ServerReading]
    """The server in that window."""
    since: datetime
    until: datetime
    peak: int
    """The most connections that one process had in use at a time within the last seven days."""
    budget: int | None
    """The pool size that the server can give to each process; None if that is not known."""

    @classmethod
    async def read(
        cls, connection: Connection, *, since: datetime, until: datetime, max_rows: int = _MAX_ROWS
    ) -> list[Self]:
        """Read the snapshots from *since* to *until* from the database; return a study for each group of processes.

        A group are processes with the same pool size and number of callers. With fewer than *max_rows* snapshots of
        each process the call costs less, but may miss short troubles.
        """
        repositories = Repositories(connection)
        before = since - (until - since)
        return cls.of(
            await repositories.snapshots.window(before, (until - before) / max_rows, until=until),
            await repositories.server.window(since),
            since=since,
            until=until,
            peak=await repositories.snapshots.peak(until - _PEAK_TIME),
        )

    @classmethod
    def of(
        cls,
        readings: Sequence[Reading],
        server: Sequence[ServerReading],
        *,
        since: datetime,
        until: datetime,
        peak: int,
    ) -> list[Self]:
        """Sort snapshots into groups of processes with the same pool size and number of callers; return their studies.

        *readings* are snapshots of the processes, *server* rows about the database server. *peak* is the max number of
        connections that one process had in use within the last seven days. Processes whose pool is not known have none.
        """
        before = since - (until - since)
        ticks = Tick.pair((reading for reading in readings if reading.tick <= until), since=before)
        groups = [(group, group.only(lambda tick: tick.began_at >= since)) for group in Window.groups(ticks)]
        return [
            cls(
                window=window,
                before=group.only(lambda tick: tick.now.captured_at <= since),
                database=server,
                since=since,
                until=until,
                peak=min(peak, window.newest[0].max_size),
                budget=_budget(server),
            )
            for group, window in groups
            if window.ticks and _is_of_a_pool(window.newest[0])
        ]

    def parts(self, count: int) -> list[Self]:
        """Return *count* copies of this study, each with a part of its snapshots: the period is split by time.

        The rest of the data is the same in all copies.
        """
        return [replace(self, window=part) for part in self.window.parts(count)]


def _is_of_a_pool(reading: Reading) -> bool:
    """Return whether the pool of the process is known; see `UnknownPool`."""
    return reading.max_size > 0 or reading.acquire_ok > 0


def _budget(server: Sequence[ServerReading]) -> int | None:
    """Return the pool size that the server can give to each worker; None if that is not known.

    The one connection that each worker has outside its pool is subtracted.
    """
    if not server:
        return None
    newest = server[-1]
    return max(1, newest.usable // max(newest.workers, 1) - 1)
