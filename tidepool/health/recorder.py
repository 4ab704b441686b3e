"""The stats job: one row of `pool_snapshots` for each tick of this process.

Ticks are multiples of the interval on the wall clock, so that the rows of all processes line up. The
sample is taken in an asyncio task of the process, not in an arq job, which would wait behind the
backlog; the journal writes it.
"""

import asyncio
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from tidepool.health.journal import Journal
from tidepool.health.loop_lag import LoopLag
from tidepool.health.watcher import Watcher
from tidepool.ledger.tally import BatchFigures, Tally
from tidepool.periodic import FailureLog, every
from tidepool.pool.loan import Holder
from tidepool.pool.pool import Pool

log = structlog.get_logger(__name__)

_BACKLOG_S = 0.25
"""How long a sample may be delayed by a queue that does not answer."""
Backlog = tuple[int, float | None]
_STATM = Path("/proc/self/statm")


class Recorder:
    """Takes the samples of one process. *callers* is how many tasks use its pool at a time; *lag* is run here.

    *batches* takes the batcher's figures; *backlog* returns how many jobs wait in the queue and for how many seconds
    the oldest of them has been due; without an answer in time, or with None, the sample has neither.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        pool: Pool,
        tally: Tally,
        callers: Callable[[], int],
        interval_s: float,
        lag: LoopLag | None = None,
        batches: Callable[[], dict[str, Any]] | None = None,
        backlog: Callable[[], Awaitable[Backlog | None]] | None = None,
    ) -> None:
        self._journal = journal
        self._pool = pool
        self._tally = tally
        self._callers = callers
        self._interval_s = interval_s
        self._lag = lag or LoopLag()
        self._batches = batches or BatchFigures().take_figures
        self._backlog = backlog
        self._queue: Backlog | None = None
        self._watcher = Watcher(int(pool.config.transaction_timeout_s * 1e6))
        self._writing: asyncio.Task[None] | None = None
        self._failures = FailureLog("snapshot writer")
        self._last_ns = time.perf_counter_ns()
        self._last_told = (0, 0, 0, 0)

    async def run(self) -> None:
        """Sample at every tick until cancelled. A slow write delays no sample."""
        probe = asyncio.create_task(self._lag.run(), name="loop lag probe")
        try:
            await every(0.0, self._tick, "stats job")
        finally:
            probe.cancel()

    async def _tick(self) -> None:
        tick_s = await self._next_tick()
        await self._look_at_queue()
        self.take_sample(tick_s)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="snapshot writer")

    async def close(self) -> None:
        """Write what is kept, as far as PostgreSQL allows."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        self._queue = None
        self.take_sample(self._tick_after(time.time()))  # else what came since the last tick would be counted nowhere
        await self._journal.close("stopped")

    async def _write(self) -> None:
        try:
            await self._journal.write()
        except Exception as error:  # noqa: BLE001  (nobody awaits it, and the next tick writes what is left)
            self._failures.log(error)

    def take_sample(self, tick_s: float) -> None:
        """Keep one sample for the tick at *tick_s* (Unix time) and what it shows; log the interval's work, if any."""
        holders = self._pool.holders()
        sample = self._journal.add_sample(
            {
                "tick": datetime.fromtimestamp(tick_s, UTC).isoformat(),
                **self._pool_figures(holders),
                **self._tally.figures(),
                **self._batches(),
                **self._queue_figures(),
                **self._lag.take_figures(),
                **_process_figures(),
            }
        )
        now_ns = time.perf_counter_ns()
        for kind, detail in self._watcher.look(sample, holders, passed_us=(now_ns - self._last_ns) // 1000):
            self._journal.add_event(kind, detail)
        self._last_ns = now_ns
        self._tell(sample)

    def _pool_figures(self, holders: Sequence[Holder]) -> dict[str, Any]:
        return {
            "min_size": self._pool.config.min_size,
            "max_size": self._pool.config.max_size,
            "pool_limit": self._pool.limit,
            "callers": self._callers(),
            "size": self._pool.size,
            "idle": self._pool.idle,
            "oldest_hold_us": holders[0].us if holders else 0,
            "overdue_holders": len(self._watcher.overdue(holders)),
            **self._pool.stats.figures(),
            "holding_us": sum(holder.us for holder in holders),
        }

    async def _look_at_queue(self) -> None:
        self._queue = None
        if self._backlog is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_BACKLOG_S):
                    self._queue = await self._backlog()

    def _queue_figures(self) -> dict[str, int | None]:
        if self._queue is None:
            return {"queue_waiting": None, "queue_oldest_us": None}
        waiting, oldest_s = self._queue
        return {"queue_waiting": waiting, "queue_oldest_us": int((oldest_s or 0.0) * 1e6)}

    def _tell(self, sample: Mapping[str, Any]) -> None:
        told = (self._tally.applied, self._tally.rejected, self._tally.failed, self._tally.retried)
        names = ("applied", "rejected", "failed", "retried")
        gains = {name: now - before for name, now, before in zip(names, told, self._last_told, strict=True)}
        if any(gains.values()):
            pool = {name: sample[name] for name in ("size", "in_use_max", "waiting_max", "wait_us_max")}
            log.info("jobs.settled", **gains, batch_wait_us_max=sample["batch_wait_us_max"], **pool)
        self._last_told = told

    async def _next_tick(self) -> float:
        """Sleep until the next multiple of the interval; returns it."""
        now_s = time.time()
        tick_s = self._tick_after(now_s)
        await asyncio.sleep(tick_s - now_s)
        return tick_s

    def _tick_after(self, now_s: float) -> float:
        return (now_s // self._interval_s + 1) * self._interval_s


def _process_figures() -> dict[str, int]:
    """Return the process's CPU time so far and its memory; where there is no /proc, the most that it ever had."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    try:
        rss_bytes = int(_STATM.read_text("ascii").split()[1]) * resource.getpagesize()
    except OSError:
        rss_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"cpu_us": int((usage.ru_utime + usage.ru_stime) * 1e6), "rss_bytes": rss_bytes}
