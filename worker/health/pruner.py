"""Deletes ledger rows and snapshots that are past their time, a thousand at a time."""

import asyncio
from datetime import UTC, datetime, timedelta

import structlog

from worker.cancelling import heed_cancel
from worker.db.faults import DatabaseFault
from worker.db.repositories import Repositories
from worker.db.side_connection import SideConnection

log = structlog.get_logger(__name__)

_INTERVAL_S = 60.0
_BATCH = 1000


class Pruner:
    """Prunes once a minute in each process; rows that another process is deleting are left to it."""

    def __init__(self, side: SideConnection, *, results_keep_days: float, snapshots_keep_days: float) -> None:
        self._side = side
        self._results_keep = timedelta(days=results_keep_days)
        self._snapshots_keep = timedelta(days=snapshots_keep_days)

    async def run(self) -> None:
        """Prune, wait, and so on until cancelled; a failed round is logged and the next one comes."""
        while True:
            heed_cancel()
            try:
                results, snapshots = await self.run_once()
            except DatabaseFault as fault:
                log.warning("prune.failed", error=str(fault))
            else:
                if results or snapshots:
                    log.info("rows.pruned", job_results=results, pool_snapshots=snapshots)
            await asyncio.sleep(_INTERVAL_S)

    async def run_once(self, now: datetime | None = None) -> tuple[int, int]:
        """Delete everything that is past its time at *now*; returns the numbers of ledger rows and snapshots."""
        now = now or datetime.now(UTC)
        results = snapshots = 0
        while batch := await self._prune_results(now - self._results_keep):
            results += batch
        while batch := await self._prune_snapshots(now - self._snapshots_keep):
            snapshots += batch
        return results, snapshots

    async def _prune_results(self, before: datetime) -> int:
        async with self._side.use() as connection:
            return await Repositories(connection).results.prune(before, limit=_BATCH)

    async def _prune_snapshots(self, before: datetime) -> int:
        async with self._side.use() as connection:
            return await Repositories(connection).snapshots.prune(before, limit=_BATCH)
