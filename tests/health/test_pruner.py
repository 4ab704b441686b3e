"""Pruning: rows past their time are deleted, in small batches, by any number of processes."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from unsteady_side import UnsteadySide
from waiting import until

from tidepool.health.pruner import Pruner
from tidepool.health.recorder import Recorder
from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import Unavailable
from tidepool.pool.side_connection import SideConnection

NOW = datetime(2026, 1, 31, tzinfo=UTC)


async def insert_results(connection: Any, count: int, finished_at: datetime) -> None:
    """Insert *count* ledger rows."""
    await connection.execute(
        """INSERT INTO job_results (job_id, function, status, result, attempts, worker_id, enqueued_at, started_at,
                                    finished_at, queue_us, pool_wait_us, db_us)
           SELECT gen_random_uuid()::text, 'f', 'applied', '{}', 1, 'w', $1, $1, $1, 0, 0, 0
           FROM generate_series(1, $2::int)""",
        finished_at,
        count,
    )


async def insert_snapshots(recorder: Recorder, *ticks: datetime) -> None:
    """Insert a snapshot for each tick."""
    for tick in ticks:
        recorder.take_snapshot(tick)
    await recorder._journal.write()


async def test_only_what_is_past_its_time_is_pruned(
    a_recorder: Callable[..., Recorder], side: UnsteadySide, connection: Any
) -> None:
    """Ledger rows by when they finished, snapshots by their tick; each has its own time."""
    unsteady: Any = side
    pruner = Pruner(unsteady, results_keep_days=30, snapshots_keep_days=7)
    await insert_results(connection, 3, NOW - timedelta(days=30, seconds=1))
    await insert_results(connection, 2, NOW - timedelta(days=29, hours=23))
    day = timedelta(days=1)
    await insert_snapshots(a_recorder(), NOW - 8 * day, NOW - 7.1 * day, NOW - 6.9 * day)
    assert (3, 2, 0, 0) == await pruner.run_once(NOW)
    assert (0, 0, 0, 0) == await pruner.run_once(NOW)
    assert 2 == await connection.fetchval("SELECT count(*) FROM job_results")
    assert 1 == await connection.fetchval("SELECT count(*) FROM pool_snapshots")


async def test_pruning_goes_in_small_batches(side: UnsteadySide, connection: Any) -> None:
    """A thousand rows at a time, so that no statement holds locks for long."""
    unsteady: Any = side
    await insert_results(connection, 2500, NOW - timedelta(days=31))
    assert (2500, 0, 0, 0) == await Pruner(unsteady, results_keep_days=30, snapshots_keep_days=7).run_once(NOW)
    assert 1 + 3 + 1 + 3 + 9 == side.uses  # for how long; 1000, 1000, 500; no more tables; a thousand minutes to thin


async def test_processes_that_prune_at_once_do_not_wait_for_each_other(database: PoolConfig, connection: Any) -> None:
    """Each row is deleted by one of them."""
    await insert_results(connection, 3000, NOW - timedelta(days=31))
    sides = [SideConnection(replace(database), f"side-{n}") for n in range(3)]
    pruners = [Pruner(side, results_keep_days=30, snapshots_keep_days=7) for side in sides]
    pruned = await asyncio.gather(*(pruner.run_once(NOW) for pruner in pruners))
    assert 3000 == sum(round_of_one.results for round_of_one in pruned)
    for side in sides:
        await side.close()


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (Unavailable("the server is away"), "prune.failed"),
        (LookupError("a column of another version"), "task.failed"),
    ],
)
async def test_a_failed_round_of_pruning_is_logged_and_the_next_one_comes(
    side: UnsteadySide, connection: Any, logs: list[Any], monkeypatch: pytest.MonkeyPatch, error: Exception, event: str
) -> None:
    """Neither an outage nor a surprise ends it."""
    monkeypatch.setattr("tidepool.health.pruner._INTERVAL_S", 0.01)
    monkeypatch.setattr("tidepool.repeating._MIN_FAILED_DELAY_S", 0.01)
    unsteady: Any = side
    await insert_results(connection, 1, NOW - timedelta(days=3000))
    side.away = error
    running = asyncio.create_task(Pruner(unsteady, results_keep_days=30, snapshots_keep_days=7).run())

    async def logged() -> bool:
        return bool(logs)

    async def pruned() -> bool:
        return await connection.fetchval("SELECT count(*) FROM job_results") == 0

    await until(logged)
    side.away = None
    await until(pruned)
    running.cancel()
    await asyncio.wait([running])
    assert event == logs[0]["event"]
