"""The adviser: an event where there is something to do, once for the whole fleet."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker import identity
from worker.db.figures import PoolStats
from worker.db.pool import PoolConfig
from worker.db.repositories import Repositories
from worker.db.side_connection import SideConnection
from worker.health.adviser import WINDOW, Adviser
from worker.health.journal import Journal

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture
async def side(database: PoolConfig) -> AsyncIterator[SideConnection]:
    """Give a side connection to the test's database."""
    side = SideConnection(database, "stats")
    yield side
    await side.close()


def an_adviser(side: SideConnection) -> tuple[Adviser, Journal]:
    """Return the adviser of a process of its own, and its journal."""
    journal = Journal(identity.of_this_process(), side, about={"versions": {}, "config": {}})
    return Adviser(journal, side), journal


async def insert_ten_minutes(side: SideConnection, *, waiting: float) -> None:
    """Insert rows of a pool of two that 40 callers use, *waiting* of whom wait on average."""
    journal = Journal(identity.of_this_process(), side, about={"versions": {}, "config": {}})
    stats, chance = PoolStats(), random.Random(1)
    for n in range(60):
        at = NOW - WINDOW + timedelta(seconds=10 * n)
        stats.acquire_ok += 1000
        stats.acquire_requests += 1000
        stats.in_use_us += 19_000_000
        stats.waiting_us += int(10_000_000 * waiting)
        stats.saturated_us += int(9_000_000 * min(1, waiting))
        stats.queries += 1000
        stats.query_us_sum += 19_000_000
        for _ in range(1000):
            stats.waited(int(waiting * 10_000 * chance.random()))
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


async def advice_of(connection: Any) -> list[dict[str, Any]]:
    """Return what has been advised."""
    return [
        event["detail"] for event in await Repositories(connection).events.newest(since=NOW - WINDOW, kind="advice")
    ]


async def test_a_crowded_pool_gets_advice_once(side: SideConnection, connection: Any) -> None:
    """Two processes look; the second sees that the first has told."""
    await insert_ten_minutes(side, waiting=15)
    for _ in range(2):
        adviser, journal = an_adviser(side)
        await adviser.run_once(NOW)
        await journal.write()
    (advice,) = await advice_of(connection)
    assert ("pool_too_small", 2) == (advice["verdict"], advice["pool_limit"])
    assert advice["advised"] > 2


async def test_where_there_is_nothing_to_do_nothing_is_told(side: SideConnection, connection: Any) -> None:
    """Nor where there is nothing to go by."""
    adviser, journal = an_adviser(side)
    await adviser.run_once(NOW)
    await insert_ten_minutes(side, waiting=0)
    await adviser.run_once(NOW)
    await journal.write()
    assert [] == await advice_of(connection)


async def test_a_failed_round_is_logged_and_the_next_one_comes(
    database: PoolConfig, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    """An outage does not end it."""
    monkeypatch.setattr("worker.health.adviser.WINDOW", timedelta(milliseconds=1))
    side = SideConnection(PoolConfig(url="postgresql://127.0.0.1:1/none", application_name="tests"), "stats")
    adviser, _ = an_adviser(side)
    running = asyncio.create_task(adviser.run())
    async with asyncio.timeout(20):
        while len(logs) < 2:
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])
    assert {"advice.failed"} == {line["event"] for line in logs}
