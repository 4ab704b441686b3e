"""Snapshots for tests: one with chosen figures, and those of a pool that was used for ten minutes."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tidepool.fleet.identity import Identity
from tidepool.health.journal import Journal
from tidepool.pool.figures import PoolStats, empty_histogram
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.snapshots import Histogram, Snapshot

_BLANK = {
    "instance_id": UUID(int=1),
    **{name: datetime.fromtimestamp(0, UTC) for name in ("tick", "started_at", "captured_at", "written_at")},
    **dict.fromkeys(("worker_id", "host"), "w"),
    **dict.fromkeys(("queue_waiting", "queue_oldest_us")),
    "functions": {},
}


def a_snapshot(**figures: Any) -> Snapshot:
    """Return a snapshot with these figures; its other counters and gauges are zero."""
    values = dict(_BLANK)
    for field in fields(Snapshot):
        values.setdefault(field.name, empty_histogram() if field.type is Histogram else 0)
    return Snapshot(**{**values, **figures})


async def insert_ten_minutes(side: SideConnection, since: datetime, *, waiting: float) -> None:
    """Insert rows of a pool of two that 40 callers use, *waiting* of whom wait on average."""
    identity = Identity.of_this_process()
    journal = Journal(identity, side, about={"versions": {}, "config": {}})
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
        journal.add_snapshot(
            a_snapshot(
                instance_id=identity.instance_id,
                worker_id=identity.worker_id,
                started_at=identity.started_at,
                tick=at,
                captured_at=at,
                max_size=2,
                pool_limit=2,
                callers=40,
                **stats.figures(),
            )
        )
    await journal.write()
