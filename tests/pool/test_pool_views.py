"""The views on snapshots and results: windows are subtractions, quantiles of processes are those of their sum."""

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from history import a_snapshot
from pydantic_core import to_json

from tidepool.pool.figures import BOUNDS_US, PoolStats
from tidepool.storage.repositories import Repositories
from tidepool.storage.snapshots import Snapshot

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)

MakeSnapshot = Callable[..., Snapshot]


def a_process(worker_id: str) -> MakeSnapshot:
    """Return a factory of one process's snapshots: seconds after noon, its pool's figures, and what differs."""
    instance_id = uuid.uuid4()

    def snapshot(at_s: float, stats: PoolStats, **other: Any) -> Snapshot:
        at = NOON + timedelta(seconds=at_s)
        times = {"started_at": NOON, "tick": at, "captured_at": at, "written_at": at}
        sizes = {"max_size": 4, "pool_limit": 4}
        own = {"instance_id": instance_id, "worker_id": worker_id, **times, **sizes}
        return a_snapshot(**{**own, **stats.figures(), **other})

    return snapshot


async def quantile(connection: Any, histogram: list[int], share: float) -> float | None:
    """Return a quantile as the database reads it."""
    return await connection.fetchval("SELECT histogram_quantile_ms($1::bigint[], $2)", histogram, share)


async def test_the_database_has_the_bounds_of_the_code(connection: Any) -> None:
    """Buckets are matched by their place."""
    bounds = await connection.fetchval("SELECT histogram_bounds_ms()")
    assert list(BOUNDS_US) == [round(ms * 1000) for ms in bounds]


async def test_a_quantile_lies_in_its_bucket(connection: Any) -> None:
    """Along a straight line between its bounds; beyond the last bound, it is that bound; no value without data."""
    empty = [0] * (len(BOUNDS_US) + 1)
    assert await quantile(connection, empty, 0.5) is None
    one = [*empty]
    one[4] = 100  # 1 to 2.5 ms
    assert 1.75 == await quantile(connection, one, 0.5)
    assert 2.5 == await quantile(connection, one, 1.0)
    beyond = [*empty]
    beyond[-1] = 1
    assert 30_000 == await quantile(connection, beyond, 0.5)
    two = [*empty]
    two[0], two[7] = 95, 5  # to 0.1 ms, 10 to 25 ms
    assert 0.1 == await quantile(connection, two, 0.95)
    assert 22 == pytest.approx(await quantile(connection, two, 0.99))


async def test_a_minute_is_what_the_counters_gained(connection: Any) -> None:
    """Since the last row of the minute before, whatever rows are lost in between; the first one since the start."""
    one, stats, samples = a_process("one"), PoolStats(), list[Snapshot]()
    for at_s, holds in ((30, 10), (55, 20), (65, 5), (115, 25)):
        for _ in range(holds):
            stats.acquire_ok += 1
            stats.waited(40_000)
            stats.held(20_000)
        stats.in_use_us = stats.hold_us_sum
        samples.append(one(at_s, stats, jobs_applied=stats.acquire_ok))
    await Repositories(connection).snapshots.write(samples)
    first, second = await connection.fetch("SELECT * FROM pool_health ORDER BY minute")
    assert (30, 30, 30) == (first["acquires"], second["acquires"], first["jobs"])
    assert (55, 60) == (first["seconds"], second["seconds"])
    assert (40, 20) == (second["wait_mean_ms"], second["hold_mean_ms"])
    assert 25 < second["wait_p50_ms"] <= 50
    assert 10 < second["hold_p99_ms"] <= 25
    assert (0.5, 0.01) == (float(second["acquires_per_second"]), float(second["in_use_mean"]))


async def test_the_fleet_is_the_sum_of_its_processes(connection: Any) -> None:
    """One waits, one does not: the fleet's p99 is the slow one's, which no mean of quantiles would show."""
    idle, busy = PoolStats(), PoolStats()
    for _ in range(90):
        idle.acquire_ok += 1
        idle.waited(0)
    for _ in range(10):
        busy.acquire_ok += 1
        busy.waited(900_000)
    samples = [a_process("idle")(30, idle), a_process("busy")(30, busy, pool_limit=2)]
    await Repositories(connection).snapshots.write(samples)
    (row,) = await connection.fetch("SELECT * FROM fleet_health")
    assert (2, 100, 6, 8) == (row["processes"], row["acquires"], row["pool_limit"], row["max_size"])
    assert row["wait_p50_ms"] <= 0.1
    assert 500 < row["wait_p99_ms"] <= 1000


async def test_a_process_that_starts_again_gains_nothing_below_zero(connection: Any) -> None:
    """The same worker, another instance: its counters begin anew, and so does the subtraction."""
    stats = PoolStats(acquire_ok=1000)
    await Repositories(connection).snapshots.write([a_process("one")(30, stats)])
    await Repositories(connection).snapshots.write([a_process("one")(90, PoolStats(acquire_ok=7))])
    rows = await connection.fetch("SELECT acquires FROM pool_health ORDER BY minute")
    assert [1000, 7] == [row["acquires"] for row in rows]


async def test_rows_of_the_version_before_are_read_all_the_same(connection: Any) -> None:
    """They lack the new columns, which are null; the others are shown."""
    sample = json.loads(to_json(a_process("old")(30, PoolStats(acquire_ok=3))))
    for name in ("wait_hist", "hold_hist", "query_hist", "in_use_us", "saturated_us", "pool_limit", "cpu_us"):
        del sample[name]
    await connection.execute(
        "INSERT INTO pool_snapshots SELECT * FROM jsonb_populate_recordset(null::pool_snapshots, $1::jsonb)",
        json.dumps([sample]),
    )
    (row,) = await connection.fetch("SELECT * FROM pool_health")
    assert (3, None, None) == (row["acquires"], row["wait_p95_ms"], row["utilisation"])


@pytest.fixture
async def long_history(connection: Any) -> datetime:
    """Fill in 20,000 rows, ten ticks a minute of each of ten processes; returns when the last two minutes began."""
    await connection.execute("""
        INSERT INTO pool_snapshots
        SELECT filled.*
        FROM generate_series(1, 10) AS p, generate_series(1, 2000) AS n,
             LATERAL (SELECT timestamptz '2026-11-25 12:00Z' - n * interval '6 s' AS tick) AS ticks,
             (SELECT jsonb_object_agg(column_name, CASE data_type WHEN 'ARRAY' THEN to_jsonb(array_fill(1, ARRAY[18]))
                                                                  ELSE to_jsonb(1) END) AS ones
              FROM information_schema.columns
              WHERE table_name = 'pool_snapshots' AND data_type IN ('integer', 'bigint', 'text', 'ARRAY')) AS columns,
             jsonb_populate_record(null::pool_snapshots, ones || jsonb_build_object(
                 'instance_id', md5(p::text), 'tick', tick, 'started_at', tick, 'captured_at', tick, 'written_at', tick)
             ) AS filled""")
    await connection.execute("VACUUM ANALYZE pool_snapshots")
    return NOON - timedelta(minutes=2)


async def plan(connection: Any, query: str, *values: Any) -> list[dict[str, Any]]:
    """Return the steps by which the server would run *query*."""
    ((explained,),) = await connection.fetch(f"EXPLAIN (FORMAT JSON) {query}", *values)
    steps = [json.loads(explained)[0]["Plan"]]
    for step in steps:
        steps += step.get("Plans", ())
    return steps


@pytest.mark.parametrize("view", ["pool_health", "fleet_health"])
async def test_a_few_minutes_are_read_without_the_rest(connection: Any, long_history: datetime, view: str) -> None:
    """The views once sorted the whole table for each look: half a second for the rows of ten processes and a day."""
    steps = await plan(connection, f"SELECT * FROM {view} WHERE minute >= $1", long_history)
    assert not {"Seq Scan", "WindowAgg"} & {step["Node Type"] for step in steps}
    assert "pool_snapshots_minute_idx" in {step.get("Index Name") for step in steps}
    assert max(step["Plan Rows"] for step in steps) <= 1000


async def test_of_one_process_only_its_rows_are_read(connection: Any, long_history: datetime) -> None:
    """Both conditions come down to the index."""
    query = "SELECT * FROM pool_health WHERE minute >= $1 AND instance_id = md5('1')::uuid"
    steps = await plan(connection, query, long_history)
    (minutes,) = (step for step in steps if step.get("Index Name") == "pool_snapshots_minute_idx")
    assert "date_bin" in minutes["Index Cond"]
    assert "instance_id" in minutes["Index Cond"]


async def test_a_jobs_time_is_shown_part_by_part(connection: Any) -> None:
    """Redis, pool, or PostgreSQL: for each function and part, the quantiles."""
    await connection.execute("""
        INSERT INTO job_results (job_id, function, status, result, attempts, worker_id, enqueued_at, started_at,
                                 finished_at, queue_us, pool_wait_us, db_us)
        SELECT n::text, 'create_user', 'applied', '{}', 1, 'w', now(), now(), now(), n * 1000, 500, 2000
        FROM generate_series(1, 101) AS n""")
    rows = {row["part"]: row for row in await connection.fetch("SELECT * FROM job_latency")}
    assert {"queue", "batch", "pool", "database"} == set(rows)
    assert (51, 96, 100, 101) == tuple(rows["queue"][name] for name in ("p50_ms", "p95_ms", "p99_ms", "max_ms"))
    assert (0.5, 2) == (rows["pool"]["p99_ms"], rows["database"]["p99_ms"])
