"""Deletes rows whose retention has passed, and thins old snapshots, in statements of max a thousand rows.

A snapshot's counters are cumulative, so a coarser history needs only fewer rows. All snapshots are kept for a day; of
older ones the last of each process and minute is kept, and after a week the last of each hour. That is 34,512 rows for
a process that runs for a year with a snapshot every five seconds: 40 MB instead of 7 GB.

All processes delete from the same tables. So how long rows are kept is decided in the database: the longest setting of
any process that deleted rows in the last seven days applies, and a process whose own setting is shorter logs that once.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import structlog

from tidepool.pool.faults import DatabaseFault
from tidepool.pool.side_connection import SideConnection
from tidepool.repeating import every
from tidepool.storage.repositories import Repositories

log = structlog.get_logger(__name__)

_INTERVAL_S = 60.0
"""Seconds between two rounds."""
_BATCH = 1000
"""Rows that one statement deletes: it takes milliseconds, and holds locks no longer."""
_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)
_EVERY_TICK_FOR = timedelta(days=1)
_EVERY_MINUTE_FOR = timedelta(days=7)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Pruned(NamedTuple):
    """How many rows a round has deleted."""

    results: int
    snapshots: int
    """Of pools, past their retention."""
    others: int
    """Rows of processes, of the server, and events, which are kept as long as snapshots."""
    thinned: int
    """Snapshots of pools that were replaced by a later one of their minute or hour."""


class Pruner:
    """Deletes old rows of Tidepool's tables once a minute, in each process; rows being deleted by another are skipped.

    *results_keep_days* and *snapshots_keep_days* are this process's settings; the longest setting of all processes
    applies.
    """

    def __init__(self, side: SideConnection, *, results_keep_days: float, snapshots_keep_days: float) -> None:
        self._side = side
        self._own_days = {"results": results_keep_days, "snapshots": snapshots_keep_days}
        self._logged_days = dict(self._own_days)
        self._thinned_until: dict[timedelta, datetime] = {}
        """By period: the time up to which this process has thinned already."""

    async def run(self) -> None:
        """Delete old rows once a minute until cancelled. A round that fails is logged, and the next one follows."""
        await every(_INTERVAL_S, self._round, "pruner")

    async def _round(self) -> None:
        try:
            pruned = await self.run_once()
        except DatabaseFault as fault:
            log.warning("prune.failed", error=str(fault))
        else:
            if any(pruned):
                log.info("rows.pruned", **pruned._asdict())

    async def run_once(self, now: datetime | None = None) -> _Pruned:
        """Delete rows older than their retention at *now*, and thin old snapshots; return how many rows were deleted.

        *now* is by default PostgreSQL's time: a worker whose own clock is a month fast would delete the ledger.
        """
        now = now or await self._clock()
        days = await self._days()
        oldest = now - timedelta(days=days["snapshots"])
        return _Pruned(
            results=await self._prune("results", now - timedelta(days=days["results"])),
            snapshots=await self._prune("snapshots", oldest),
            others=sum([await self._prune(table, oldest) for table in ("processes", "server", "events")]),
            thinned=await self._thin(now, oldest),
        )

    async def _days(self) -> dict[str, float]:
        """Return for how many days each kind of row is kept; log once if that is longer than this process's setting."""
        async with self._side.use() as connection:
            days = await Repositories(connection).retention.longest(self._own_days)
        for kind, kept in days.items():
            if kept > self._own_days[kind] and kept != self._logged_days[kind]:
                log.warning("retention.longer", rows=kind, own_days=self._own_days[kind], kept_days=kept)
        self._logged_days = days
        return days

    async def _clock(self) -> datetime:
        async with self._side.use() as connection:
            return await Repositories(connection).server.clock()

    async def _prune(self, repository: str, before: datetime) -> int:
        """Delete the rows from before *before*, in small batches, and return how many there were."""
        gone, batch = 0, _BATCH
        while batch == _BATCH:
            async with self._side.use() as connection:
                batch = await getattr(Repositories(connection), repository).prune(before, limit=_BATCH)
            gone += batch
        return gone

    async def _thin(self, now: datetime, oldest: datetime) -> int:
        """Thin the snapshots that have become old enough, and return how many rows were deleted."""
        oldest = _start_of(_HOUR, oldest)
        by_hour = _start_of(_HOUR, now - _EVERY_MINUTE_FOR)
        by_minute = _start_of(_MINUTE, now - _EVERY_TICK_FOR)
        return await self._thin_to(_HOUR, oldest, by_hour) + await self._thin_to(_MINUTE, by_hour, by_minute)

    async def _thin_to(self, period: timedelta, since: datetime, before: datetime) -> int:
        """Keep one row per *period* in the time from *since* to *before*, and return how many rows were deleted.

        Time that another process is thinning now is left to the next round.
        """
        since, gone = max(since, self._thinned_until.get(period, since)), 0
        while since < before:
            until = min(since + _BATCH * period, before)  # so that no statement looks through a year
            batch = await self._thin_batch(period, since, until)
            if batch is None:
                break
            deleted, last_tick = batch
            gone += deleted
            since = last_tick or until
        self._thinned_until[period] = since
        return gone

    async def _thin_batch(
        self, period: timedelta, since: datetime, before: datetime
    ) -> tuple[int, datetime | None] | None:
        """Thin up to a thousand rows; return how many, and the last one's tick. None: another process is thinning."""
        async with self._side.use() as connection, connection.transaction():
            repositories = Repositories(connection)
            if not await repositories.snapshots.lock_thinning():
                return None
            deleted, last_tick = await repositories.snapshots.thin(since, before, period=period, limit=_BATCH)
            await repositories.server.thin(since, last_tick or before, period=period)
            return deleted, last_tick


def _start_of(period: timedelta, time: datetime) -> datetime:
    return time - (time - _EPOCH) % period
