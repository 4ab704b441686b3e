"""Verdicts on real workers with jobs in their queue: what was made is found, what is predicted comes true."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from commands import Service, until
from front import running

from producer.http import create_front
from settings import load
from tidepool.embedded import Urls
from tidepool.pool.config import PoolConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

JOBS = 300_000
SLOW_STATEMENT = """
    CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END';
    CREATE TRIGGER nap AFTER INSERT ON users EXECUTE FUNCTION nap();"""
SLOW_COMMIT = """
    CREATE TABLE napped (n int);
    CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER nap AFTER INSERT ON napped DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION nap();
    CREATE FUNCTION tire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO napped VALUES (1); RETURN NULL; END';
    CREATE TRIGGER tire AFTER INSERT ON users EXECUTE FUNCTION tire();"""
"""Once for each statement, and so for each batch."""

Rows = Callable[..., Awaitable[list[dict[str, Any]]]]


async def applied(rows: Rows) -> int:
    """Return how many jobs are applied."""
    return (await rows("SELECT count(*) AS n FROM job_results"))[0]["n"]


async def rate(rows: Rows, seconds: float) -> float:
    """Return the jobs a second that are applied in so many seconds."""
    before, since = await applied(rows), time.perf_counter()
    await asyncio.sleep(seconds)
    return (await applied(rows) - before) / (time.perf_counter() - since)


async def work(service: Service, rows: Rows, seconds: float, **settings: str) -> tuple[float, Any, Any]:
    """Let one worker drain the queue; returns its rate, what `why` says of the time, and what `advise` does."""
    worker = service.start_worker(STATS_INTERVAL="1", **settings)
    log = asyncio.create_task(asyncio.to_thread(worker.communicate))
    before = await applied(rows)

    async def at_work() -> bool:
        return await applied(rows) > before

    await until(at_work)
    measured = await rate(rows, seconds)
    answers = []
    for command in ("why", "advise"):
        ended = await asyncio.to_thread(service.run, "worker", command, "--since", f"{seconds:.0f}s", "--json")
        answers.append(ended.document["groups"][0])
    worker.terminate()
    await log
    return measured, *answers


async def test_a_pool_of_one_with_a_long_statement(service: Service, rows: Rows, connection: Any) -> None:
    """Jobs wait in the batcher: the pool is too small, and the size that is advised has the rate that is predicted."""
    await connection.execute(SLOW_STATEMENT)
    await asyncio.to_thread(service.run, "producer", "--jobs", str(JOBS), "--mix", "create_user=1")
    measured, why, advised = await work(service, rows, 30, POOL_MAX_SIZE="1")
    assert "pool_too_small" == why["verdict"], why
    advice = advised["advice"]
    predicted = {prediction["size"]: prediction["jobs_per_second"] for prediction in advice["predictions"]}
    print(f"1: predicted {predicted[1]:,.0f}, measured {measured:,.0f} jobs/s; advised {advice['size']}")  # noqa: T201
    assert 0.75 < measured / predicted[1] < 1.25
    (row,) = await rows("""
        SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY batch_us) AS batch_us,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY pool_wait_us) AS gate_us FROM job_results""")
    assert row["batch_us"] > 10 * row["gate_us"]
    measured, why, _ = await work(service, rows, 30, POOL_MAX_SIZE=str(advice["size"]))
    expected = predicted[advice["size"]]
    print(f"{advice['size']}: predicted {expected:,.0f}, measured {measured:,.0f} jobs/s; then {why['verdict']}")  # noqa: T201
    assert 0.75 < measured / expected < 1.25
    assert why["verdict"] != "pool_too_small"


async def test_slow_commits(service: Service, rows: Rows, connection: Any) -> None:
    """The time is PostgreSQL's: the verdict says so, the jobs' rows do, and neither pool nor batcher is blamed."""
    await connection.execute(SLOW_COMMIT)
    await asyncio.to_thread(service.run, "producer", "--jobs", str(JOBS), "--mix", "create_user=1")
    measured, why, advised = await work(service, rows, 30)
    print(f"{measured:,.0f} jobs/s, {why['words']}")  # noqa: T201
    assert "database_bound" == why["verdict"], why
    assert "COMMIT" in why["words"]
    assert advised["advice"] is None
    (row,) = await rows("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY db_us) AS us FROM job_results")
    assert row["us"] >= 300_000
    (health,) = await rows("SELECT commit_p50_ms FROM pool_health WHERE commit_p50_ms IS NOT NULL LIMIT 1")
    assert health["commit_p50_ms"] > 250


async def test_the_counts_of_the_page_are_those_of_the_ledger(
    service: Service, rows: Rows, connection: Any, database: PoolConfig, redis_url: str
) -> None:
    """However many outcomes there are in five minutes: at full speed the page's counters and SQL agree."""
    await asyncio.to_thread(service.run, "producer", "--jobs", str(JOBS), "--mix", "create_user=1")
    worker = service.start_worker()
    log = asyncio.create_task(asyncio.to_thread(worker.communicate))
    since = time.perf_counter()

    async def drained() -> bool:
        return await applied(rows) >= JOBS

    await until(drained, timeout_s=200)
    seconds = time.perf_counter() - since

    worker.terminate()
    await log
    app = create_front(load({"DATABASE_URL": database.url, "REDIS_URL": redis_url}), Urls(database.url, redis_url))
    async with running(app) as http:
        tallies = (await http.get("/picture")).json()["tallies"]
    on_page = sum(one["jobs"]["applied"] for one in tallies["functions"])
    minutes = (datetime.fromtimestamp(tallies[name], UTC) for name in ("since", "until"))
    in_sql = await connection.fetchval(
        "SELECT count(*) FROM job_results WHERE finished_at > $1 AND finished_at <= $2", *minutes
    )
    print(f"{JOBS / seconds:,.0f} jobs/s: page {on_page:,}, SQL {in_sql:,}")  # noqa: T201
    assert abs(on_page - in_sql) <= 0.01 * in_sql
    assert in_sql >= 0.99 * JOBS
