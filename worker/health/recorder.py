"""The stats job: one row of `pool_snapshots` for each tick of this process.

Ticks are multiples of the interval on the wall clock, so that the rows of all processes line up. The
sample is taken in an asyncio task of the process, not in an arq job, which would wait behind the
backlog, and written over a connection of its own, which never waits behind the pool. While PostgreSQL
is away samples are kept, up to a bound, and written when it is back.
"""

import asyncio
import os
import resource
import sys
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from worker.db.faults import DatabaseFault
from worker.db.pool import Pool
from worker.db.repositories import Repositories
from worker.db.side_connection import SideConnection
from worker.health.loop_lag import LoopLag
from worker.identity import Identity
from worker.ledger import Tally

log = structlog.get_logger(__name__)

_STATM = Path("/proc/self/statm")
_MOST_KEPT = 720
"""Samples that wait for PostgreSQL: an hour's at the default interval."""


class Recorder:
    """Takes and writes the samples of one process."""

    def __init__(
        self, identity: Identity, *, pool: Pool, tally: Tally, side: SideConnection, interval_s: float
    ) -> None:
        self._identity = identity
        self._pool = pool
        self._tally = tally
        self._side = side
        self._interval_s = interval_s
        self._lag = LoopLag()
        self._kept: deque[dict[str, Any]] = deque(maxlen=_MOST_KEPT)
        self._writing: asyncio.Task[None] | None = None
        self._last_told = (0, 0, 0)

    async def run(self) -> None:
        """Sample at every tick until cancelled. A slow write delays no sample."""
        probe = asyncio.create_task(self._lag.run(), name="loop lag probe")
        try:
            while True:
                tick_s = await self._next_tick()
                self.take_sample(tick_s)
                if self._writing is None or self._writing.done():
                    self._writing = asyncio.create_task(self.write_kept(), name="snapshot writer")
        finally:
            probe.cancel()

    async def close(self) -> None:
        """Write what is kept, as far as PostgreSQL allows."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        await self.write_kept()

    def take_sample(self, tick_s: float) -> None:
        """Keep one sample for the tick at *tick_s* (Unix time), and log the interval's work if there was any."""
        identity, stats = self._identity, self._pool.stats
        self._kept.append(
            {
                "instance_id": identity.instance_id,
                "worker_id": identity.worker_id,
                "host": identity.host,
                "pid": os.getpid(),
                "started_at": identity.started_at.isoformat(),
                "tick": datetime.fromtimestamp(tick_s, UTC).isoformat(),
                "captured_at": datetime.now(UTC).isoformat(),
                "min_size": self._pool.config.min_size,
                "max_size": self._pool.config.max_size,
                "pool_limit": self._pool.limit,
                "size": self._pool.size,
                "idle": self._pool.idle,
                "oldest_hold_us": max((holder.us for holder in self._pool.holders()), default=0),
                **stats.figures(),
                "jobs_applied": self._tally.applied,
                "jobs_rejected": self._tally.rejected,
                "jobs_failed": self._tally.failed,
                **self._lag.take_figures(),
                **_process_figures(),
            }
        )
        self._tell()

    async def write_kept(self) -> None:
        """Write the samples that are kept; what cannot be written stays for the next call."""
        samples = list(self._kept)
        if not samples:
            return
        for sample in samples:
            sample["written_at"] = datetime.now(UTC).isoformat()
        try:
            async with self._side.use() as connection:
                await Repositories(connection).snapshots.write(samples)
        except DatabaseFault as fault:
            log.warning("snapshot.late", kept=len(self._kept), error=str(fault))
            return
        while samples and self._kept and self._kept[0] is samples[0]:
            self._kept.popleft()
            samples.pop(0)

    def _tell(self) -> None:
        told = (self._tally.applied, self._tally.rejected, self._tally.failed)
        applied, rejected, failed = (now - before for now, before in zip(told, self._last_told, strict=True))
        if applied or rejected or failed:
            sample = self._kept[-1]
            pool = {name: sample[name] for name in ("size", "in_use_max", "waiting_max", "wait_us_max")}
            log.info("jobs.settled", applied=applied, rejected=rejected, failed=failed, **pool)
        self._last_told = told

    async def _next_tick(self) -> float:
        """Sleep until the next multiple of the interval; returns it."""
        now_s = time.time()
        tick_s = (now_s // self._interval_s + 1) * self._interval_s
        await asyncio.sleep(tick_s - now_s)
        return tick_s


def _process_figures() -> dict[str, int]:
    """Return the process's CPU time so far and its memory; where there is no /proc, the most that it ever had."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    try:
        rss_bytes = int(_STATM.read_text("ascii").split()[1]) * resource.getpagesize()
    except OSError:
        rss_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"cpu_us": int((usage.ru_utime + usage.ru_stime) * 1e6), "rss_bytes": rss_bytes}
