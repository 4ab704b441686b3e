"""The health room of the front: alive, ready, its figures, and the fleet's."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import pytest
from front import a_front
from history import insert_ten_minutes
from httpx import AsyncClient
from prometheus_client.parser import text_string_to_metric_families as parse

from tidepool.pool.config import PoolConfig
from tidepool.pool.side_connection import SideConnection


@pytest.fixture
async def http(database: PoolConfig, redis_url: str) -> AsyncIterator[AsyncClient]:
    """Give a client of a front on the test's servers, whose pool has one connection."""
    async with a_front(database.url, redis_url, POOL_MAX_SIZE="1") as client:
        yield client


async def samples(http: AsyncClient, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of a metric by its labels' values."""
    answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = [sample for family in parse(answer.text) for sample in family.samples if sample.name == name]
    return {tuple(sample.labels.values()): sample.value for sample in found}


async def test_a_front_whose_servers_answer_is_ready(http: AsyncClient) -> None:
    """Each check has its words."""
    assert {"alive": True} == (await http.get("/health/live")).json()
    answer = await http.get("/health/ready")
    checks = answer.json()["checks"]
    assert (200, {"postgresql", "migrations", "pool", "redis"}) == (answer.status_code, set(checks))
    assert ("up to date", "answers") == (checks["migrations"]["reason"], checks["redis"]["reason"])


async def test_a_missing_migration_is_reported(http: AsyncClient, connection: Any) -> None:
    """The front would answer from a schema that it does not know."""
    await connection.execute("DELETE FROM tidepool_migrations WHERE version = 2")
    answer = await http.get("/health/ready")
    assert (503, {"ok": False, "reason": "not applied: tidepool/0002_pool_history"}) == (
        answer.status_code,
        answer.json()["checks"]["migrations"],
    )


async def test_without_redis_the_front_lives_and_is_not_ready(database: PoolConfig) -> None:
    """The answer names the server that is away; a restart of the front would not help."""
    async with a_front(database.url, "redis://127.0.0.1:1") as http:
        answer = await http.get("/health/ready")
        checks = answer.json()["checks"]
        assert (503, False, True) == (answer.status_code, checks["redis"]["ok"], checks["postgresql"]["ok"])
        assert 200 == (await http.get("/health/live")).status_code


async def test_pool_stats_without_workers_are_those_of_the_front(http: AsyncClient) -> None:
    """An empty fleet is no error."""
    stats = (await http.get("/pool/stats")).json()
    assert (1, [], [], None, []) == (
        stats["process"]["max_size"],
        *(stats["fleet"][name] for name in ("processes", "minutes", "budget")),
        stats["fleet"]["groups"] or [],
    )


async def test_pool_stats_tell_of_each_process_and_the_verdict(http: AsyncClient, side: SideConnection) -> None:
    """What `python -m worker pool` and `why` say, for programs."""
    await insert_ten_minutes(side, datetime.now(UTC) - timedelta(minutes=10), waiting=30)
    stats = (await http.get("/pool/stats")).json()
    async with asyncio.timeout(10):
        while stats["fleet"]["groups"] is None:
            await asyncio.sleep(0.1)
            stats = (await http.get("/pool/stats")).json()
    (process,) = stats["fleet"]["processes"]
    (group,) = stats["fleet"]["groups"]
    assert ("pool_too_small", 2, [process["worker_id"]]) == (
        group["verdict"],
        group["pool_limit"],
        group["processes"],
    )
    assert group["advice"]["size"] > 2
    assert "wait_p95_ms" in process
    assert stats["fleet"]["minutes"]


@pytest.mark.parametrize("path", ["/pool/stats", "/picture"])
async def test_a_server_that_does_not_answer_holds_no_caller_up(http: AsyncClient, connection: Any, path: str) -> None:
    """As `/health` does: a command may take twenty seconds, and nobody who asks how things are waits that long."""
    async with connection.transaction():
        await connection.execute("LOCK TABLE pool_snapshots, db_snapshots IN ACCESS EXCLUSIVE MODE")
        began_s = monotonic()
        answer = await http.get(path)
        assert monotonic() - began_s < 4
    assert 503 == answer.status_code
    assert 200 == (await http.get(path)).status_code


async def test_one_reading_serves_all_who_ask(http: AsyncClient) -> None:
    """Fifty callers at the same time, over one connection: the pool is lent a few times."""
    before = (await samples(http, "tidepool_pool_acquires_total"))[("tidepool", "ok")]
    answers = await asyncio.gather(*(http.get("/pool/stats") for _ in range(50)))
    after = (await samples(http, "tidepool_pool_acquires_total"))[("tidepool", "ok")]
    assert {200} == {answer.status_code for answer in answers}
    assert after - before <= 4


async def test_requests_are_counted_by_route_and_status(http: AsyncClient) -> None:
    """By the route's template, so that ids make no new series; what the guard refuses has none."""
    for path in ("/users/1", "/users/2", "/jobs/a%2Fb", "/nothing"):
        await http.get(path)
    await http.get("/health/live", headers={"Host": "elsewhere.example"})
    counts = await samples(http, "http_server_request_duration_seconds_count")
    assert {
        ("GET", "404", "/users/{user_id}"): 2,
        ("GET", "404", "/jobs/{job_id}"): 1,
        ("GET", "404", ""): 1,
        ("GET", "421", ""): 1,
    } == counts


async def test_a_front_tells_of_no_jobs(http: AsyncClient) -> None:
    """It runs none: a zero would look like a worker that does nothing."""
    assert {} == await samples(http, "tidepool_jobs_total")
    assert await samples(http, "tidepool_loop_lag_seconds_count")


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", "/pool/stats", "/metrics", "/load-test", "/users", "/jobs"]
)
async def test_a_slash_at_the_end_changes_nothing(http: AsyncClient, path: str) -> None:
    """No redirect, which a probe would not follow."""
    assert [200, 200] == [(await http.get(one, follow_redirects=False)).status_code for one in (path, f"{path}/")]
