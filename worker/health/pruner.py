"""Deletes ledger rows and snapshots that are past their time, and thins old snapshots, a thousand at a time.

A snapshot's counters are cumulative, so that to keep fewer rows is all that a coarser history takes: every
tick for a day, then each process's last one of a minute, after a week of an hour. That is 34,512 rows for a
process that runs a year at a tick each five seconds, 40 MB instead of 7 GB.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import structlog

from worker.cancelling import heed_cancel
from worker.db.faults import DatabaseFault
from worker.db.repositories import Repositories
from worker.db.side_connection import SideConnection
from worker.db.snapshots import Thinned

log = structlog.get_logger(__name__)

_INTERVAL_S = 60.0
_BATCH = 1000
_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)
_EVERY_TICK_FOR = timedelta(days=1)
_EVERY_MINUTE_FOR = timedelta(days=7)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Pruned(NamedTuple):
    """How many rows a round has deleted."""

    results: int
    snapshots: int
    """Past their time."""
    thinned: int
    """Snapshots that a later one of their minute or hour stands for."""


class Pruner:
    """Prunes once a minute in each process; rows that another process is deleting are left to it."""

    def __init__(self, side: SideConnection, *, results_keep_days: float, snapshots_keep_days: float) -> None:
        self._side = side
        self._results_keep = timedelta(days=results_keep_days)
        self._snapshots_keep = timedelta(days=snapshots_keep_days)
        self._thinned_until: dict[timedelta, datetime] = {}
        """By period: what this process need not look at again."""

    async def run(self) -> None:
        """Prune, wait, and so on until cancelled; a failed round is logged and the next one comes."""
        while True:
            heed_cancel()
            try:
                pruned = await self.run_once()
            except DatabaseFault as fault:
                log.warning("prune.failed", error=str(fault))
            else:
                if any(pruned):
                    of_snapshots = {"pool_snapshots": pruned.snapshots, "thinned": pruned.thinned}
                    log.info("rows.pruned", job_results=pruned.results, **of_snapshots)
            await asyncio.sleep(_INTERVAL_S)

    async def run_once(self, now: datetime | None = None) -> Pruned:
        """Delete everything that is past its time at *now*, and thin what is old."""
        now = now or datetime.now(UTC)
        results = snapshots = 0
        while batch := await self._prune_results(now - self._results_keep):
            results += batch
        while batch := await self._prune_snapshots(now - self._snapshots_keep):
            snapshots += batch
        return Pruned(results, snapshots, await self._thin(now))

    async def _prune_results(self, before: datetime) -> int:
        async with self._side.use() as connection:
            return await Repositories(connection).results.prune(before, limit=_BATCH)

    async def _prune_snapshots(self, before: datetime) -> int:
        async with self._side.use() as connection:
            return await Repositories(connection).snapshots.prune(before, limit=_BATCH)

    async def _thin(self, now: datetime) -> int:
        """Thin what has become old enough for it; returns how many rows that has deleted."""
        oldest = _start_of(_HOUR, now - self._snapshots_keep)
        by_hour = _start_of(_HOUR, now - _EVERY_MINUTE_FOR)
        by_minute = _start_of(_MINUTE, now - _EVERY_TICK_FOR)
        return await self._thin_to(_HOUR, oldest, by_hour) + await self._thin_to(_MINUTE, by_hour, by_minute)

    async def _thin_to(self, period: timedelta, since: datetime, before: datetime) -> int:
        """Keep a row a *period*. What is done is not looked at again; what another process is at is, next time."""
        since, gone = max(since, self._thinned_until.get(period, since)), 0
        while since < before:
            until = min(since + _BATCH * period, before)  # so that no statement looks through a year
            batch = await self._thin_batch(period, since, until)
            if batch is None:
                break
            gone += batch.gone
            since = batch.last_tick or until
        self._thinned_until[period] = since
        return gone

    async def _thin_batch(self, period: timedelta, since: datetime, before: datetime) -> Thinned | None:
        """Thin up to a thousand rows; None where another process is at it."""
        async with self._side.use() as connection, connection.transaction():
            snapshots = Repositories(connection).snapshots
            if not await snapshots.lock_thinning():
                return None
            return await snapshots.thin(since, before, period=period, limit=_BATCH)


def _start_of(period: timedelta, time: datetime) -> datetime:
    return time - (time - _EPOCH) % period
