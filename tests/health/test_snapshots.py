"""Snapshots of workers whose pools are exhausted all the time: none is missing, and their figures agree."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from commands import Service, until

TICK_S = 1.0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [pytest.param(seconds, marks=pytest.mark.slow) for seconds in (8, 300)])
async def test_every_process_has_a_row_for_every_tick(
    service: Service, rows: Any, connection: Any, seconds: int
) -> None:
    """Two workers, two connections each, no batches, and an insert that takes the server five milliseconds."""
    await connection.execute(
        "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.005); RETURN NULL; END'"
    )
    await connection.execute("CREATE TRIGGER sleep AFTER INSERT ON users EXECUTE FUNCTION sleep()")
    service.run("producer", "--jobs", str(1000 * seconds), "--mix", "create_user=1")
    settings = {"POOL_MAX_SIZE": "2", "BATCH_LIMIT": "1", "STATS_INTERVAL": str(TICK_S)}
    workers = [service.start_worker(**settings) for _ in range(2)]
    logs = [asyncio.create_task(asyncio.to_thread(worker.communicate)) for worker in workers]

    async def both_at_work() -> bool:
        query = "SELECT count(DISTINCT instance_id) AS n FROM pool_snapshots WHERE jobs_applied > 0"
        return (await rows(query))[0]["n"] == len(workers)

    await until(both_at_work)
    await asyncio.sleep(seconds)
    for worker in workers:
        worker.terminate()
    await asyncio.gather(*logs)  # read all the time: a log that nobody reads stops who writes it
    snapshots = await rows("SELECT * FROM pool_snapshots WHERE jobs_applied > 0 ORDER BY tick")
    by_process: dict[Any, list[dict[str, Any]]] = {}
    for row in snapshots:
        by_process.setdefault(row["instance_id"], []).append(row)

    assert len(workers) == len(by_process)
    in_use_us = held_us = 0
    for own in by_process.values():
        ticks = [row["tick"] for row in own]
        assert [ticks[0] + n * timedelta(seconds=TICK_S) for n in range(len(ticks))] == ticks
        assert len(ticks) >= seconds
        assert not any(row["late"] for row in own)
        first, last = own[0], own[seconds - 1]
        passed_us = (last["captured_at"] - first["captured_at"]) / timedelta(microseconds=1)
        assert last["in_use_us"] - first["in_use_us"] > 0.85 * 2 * passed_us  # the rest is between two jobs
        in_use_us += last["in_use_us"] - first["in_use_us"]
        held_us += last["hold_us_sum"] - first["hold_us_sum"]
    slowest = max(row["captured_at"] - row["tick"] for row in snapshots)
    off = held_us / in_use_us - 1
    late_ms = slowest / timedelta(milliseconds=1)
    print(f"{len(snapshots)} rows, at most {late_ms:.0f} ms late; Little's law is off by {off:.2%}")  # noqa: T201
    assert abs(off) < 0.05
