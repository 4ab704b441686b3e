"""Takes a snapshot of this process and its connection pool every few seconds, for the table `pool_snapshots`.

The times of the snapshots (ticks) are the multiples of STATS_INTERVAL by PostgreSQL's clock, so that the rows of all
processes line up. A snapshot is taken in an asyncio task of the process, not in an arq job, which would wait behind the
backlog. `tidepool.health.journal` writes the snapshots.
"""

import asyncio
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from tidepool.health.journal import Journal
from tidepool.health.loop_lag import LoopLag
from tidepool.health.watcher import Watcher
from tidepool.ledger.batcher import Tally
from tidepool.pool.watched import Holder, WatchedPool
from tidepool.repeating import FailureLog, every
from tidepool.storage.snapshots import Snapshot

log = structlog.get_logger(__name__)

_BACKLOG_S = 0.25
"""Seconds by which a snapshot may be delayed by a queue that does not answer."""
_CLOCK_S = 1.0
"""Seconds for which the first tick waits until PostgreSQL's clock is known."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STATM = Path("/proc/self/statm")


class Recorder:
    """Takes a snapshot of one process every *interval_s* seconds, and adds it to *journal*, which writes it.

    A snapshot has the figures of *pool*, *tally* (jobs and batches) and *lag* (the event loop, which the recorder
    measures). *callers* returns how many tasks use the pool at a time, and *pending* how many jobs wait for their batch
    to start. *backlog* returns how many jobs wait in the queue, and for how many seconds the oldest of them has been
    due; if it returns None or takes longer than a quarter of a second, the snapshot has neither.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        pool: WatchedPool,
        tally: Tally,
        callers: Callable[[], int],
        interval_s: float,
        lag: LoopLag | None = None,
        pending: Callable[[], int] = lambda: 0,
        backlog: Callable[[], Awaitable[tuple[int, float | None] | None]] | None = None,
    ) -> None:
        self._journal = journal
        self._pool = pool
        self._tally = tally
        self._callers = callers
        self._interval = timedelta(seconds=interval_s)
        self._lag = lag or LoopLag()
        self._pending = pending
        self._backlog = backlog
        self._queue: tuple[int, float | None] | None = None
        self._watcher = Watcher(int(pool.overdue_s * 1e6))
        self._writing: asyncio.Task[None] | None = None
        self._failures = FailureLog("snapshot writer")
        self._last_ns = time.perf_counter_ns()
        self._logged: Snapshot | None = None

    async def run(self) -> None:
        """Take a snapshot at every tick (multiple of the interval) until cancelled.

        Snapshots are written in the background, so that a slow write delays no snapshot.
        """
        self._writing = asyncio.create_task(self._write(), name="snapshot writer")
        await asyncio.wait([self._writing], timeout=_CLOCK_S)
        probe = asyncio.create_task(self._lag.run(), name="loop lag probe")
        try:
            await every(0.0, self._tick, "stats job")
        finally:
            probe.cancel()

    async def _tick(self) -> None:
        tick = await self._next_tick()
        await self._look_at_queue()
        self.take_snapshot(tick)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="snapshot writer")

    async def close(self) -> None:
        """Take a last snapshot, and write all buffered records; they are lost if PostgreSQL is unavailable."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        self._queue = None
        self.take_snapshot(self._tick_after(self._journal.now()))  # otherwise the gains since the last tick were lost
        await self._journal.close("stopped")

    async def _write(self) -> None:
        try:
            await self._journal.write()
        except Exception as error:  # noqa: BLE001  (nobody awaits it, and the next tick writes the rest)
            self._failures.log(error)

    def take_snapshot(self, tick: datetime) -> None:
        """Take a snapshot for the time *tick*, and give it to the journal, with the events that it shows.

        If jobs have ended or been retried since the last snapshot, one log line reports how many.
        """
        holders = self._pool.holders()
        snapshot = self._snapshot(tick, holders)
        self._journal.add_snapshot(snapshot)
        now_ns = time.perf_counter_ns()
        for event in self._watcher.look(snapshot, holders, passed_us=(now_ns - self._last_ns) // 1000):
            self._journal.add_event(event.kind, event.detail)
        self._last_ns = now_ns
        self._log_jobs(snapshot)

    def _snapshot(self, tick: datetime, holders: Sequence[Holder]) -> Snapshot:
        identity, pool, now = self._journal.identity, self._pool, self._journal.now()
        figures: dict[str, Any] = {
            **pool.stats.figures(),
            **self._tally.take_figures(),
            "batch_pending": self._pending(),
            **self._lag.take_figures(),
            **_process_figures(),
        }
        return Snapshot(
            instance_id=identity.instance_id,
            tick=tick,
            worker_id=identity.worker_id,
            host=identity.host,
            pid=os.getpid(),
            started_at=self._journal.started_at(),
            captured_at=now,
            written_at=now,
            late=False,
            min_size=pool.min_size,
            max_size=pool.max_size,
            pool_limit=pool.limit,
            callers=self._callers(),
            size=pool.size,
            idle=pool.idle,
            oldest_hold_us=holders[0].us if holders else 0,
            overdue_holders=len(self._watcher.overdue(holders)),
            holding_us=sum(holder.us for holder in holders),
            queue_waiting=self._queue[0] if self._queue else None,
            queue_oldest_us=int((self._queue[1] or 0.0) * 1e6) if self._queue else None,
            **figures,
        )

    async def _look_at_queue(self) -> None:
        self._queue = None
        if self._backlog is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_BACKLOG_S):
                    self._queue = await self._backlog()

    def _log_jobs(self, now: Snapshot) -> None:
        before, self._logged = self._logged, now
        gained = now.since(before)
        gains = {
            "applied": gained.jobs_applied,
            "rejected": gained.jobs_rejected,
            "failed": gained.jobs_failed,
            "retried": now.jobs_retried - (before.jobs_retried if before else 0),
        }
        if any(gains.values()):
            names = ("batch_wait_us_max", "size", "in_use_max", "waiting_max", "wait_us_max")
            log.info("jobs.settled", **gains, **{name: getattr(now, name) for name in names})

    async def _next_tick(self) -> datetime:
        """Sleep until the next multiple of the interval, and return it."""
        now = self._journal.now()
        tick = self._tick_after(now)
        await asyncio.sleep((tick - now).total_seconds())
        return tick

    def _tick_after(self, now: datetime) -> datetime:
        return now + self._interval - (now - _EPOCH) % self._interval


def _process_figures() -> dict[str, int]:
    """Return the process's CPU time so far, in microseconds, and its resident memory, in bytes.

    Without /proc the memory is the largest that it ever was.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    try:
        rss_bytes = int(_STATM.read_text("ascii").split()[1]) * resource.getpagesize()
    except OSError:
        rss_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"cpu_us": int((usage.ru_utime + usage.ru_stime) * 1e6), "rss_bytes": rss_bytes}
