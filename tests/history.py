"""Snapshots of a pool that was used for ten minutes."""

from datetime import datetime, timedelta

from tidepool.fleet import identity
from tidepool.health.journal import Journal
from tidepool.pool.figures import PoolStats
from tidepool.pool.side_connection import SideConnection


async def insert_ten_minutes(side: SideConnection, since: datetime, *, waiting: float) -> None:
    """Insert rows of a pool of two that 40 callers use, *waiting* of whom wait on average."""
    journal = Journal(identity.of_this_process(), side, about={"versions": {}, "config": {}})
    stats = PoolStats()
    for n in range(60):
        at = since + timedelta(seconds=10 * n)
        stats.acquire_ok += 1000
        stats.acquire_requests += 1000
        stats.in_use_us += 19_000_000
        stats.waiting_us += int(10_000_000 * waiting)
        stats.saturated_us += int(9_000_000 * min(1, waiting))
        stats.queries += 1000
        stats.query_us_sum += 19_000_000
        for use in range(1000):
            stats.waited(int(waiting * 10_000 * use / 1000))
            stats.held(19_000)
        others = ("size", "idle", "jobs_applied", "jobs_rejected", "jobs_failed", "cpu_us", "rss_bytes", "holding_us")
        journal.add_sample(
            {
                **dict.fromkeys((*others, "loop_lag_us_sum", "loop_lag_us_max", "loop_lag_count"), 0),
                "tick": at.isoformat(),
                "captured_at": at.isoformat(),
                "min_size": 1,
                "max_size": 2,
                "pool_limit": 2,
                "callers": 40,
                **stats.figures(),
            }
        )
    await journal.write()
