"""Processes of two versions beside each other: no job is lost to the older one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from arq.connections import ArqRedis
from factories import product_fields, user_fields
from planting import a_worker, drained

from tidepool.jobs.job_type import JobTypes
from tidepool.jobs.outcomes import Rejected
from tidepool.pool.pool import Pool
from worker.jobs import JOBS

pytestmark = pytest.mark.usefixtures("database")
OLD = JobTypes(job_type for job_type in JOBS if job_type.name != "create_product")


@asynccontextmanager
async def old_worker(redis: ArqRedis, pool: Pool, *, leave_s: float) -> AsyncIterator[asyncio.Task[None]]:
    """Run a worker that does not know products."""
    async with a_worker(redis, pool, "old", types=OLD, leave_s=leave_s) as running:
        yield running


async def rows(connection: Any) -> dict[str, Any]:
    """Return the ledger's rows by job id."""
    return {row["job_id"]: row for row in await connection.fetch("SELECT * FROM job_results")}


async def left(logs: list[Any]) -> list[str]:
    """Wait until a job was left, and return the functions that were."""
    while not (found := [line["function"] for line in logs if line["event"] == "job.left"]):
        await asyncio.sleep(0.01)
    return found


async def test_an_old_worker_leaves_what_it_does_not_know_to_a_new_one(
    redis: ArqRedis, pool: Pool, connection: Any, logs: list[Any]
) -> None:
    """A new job type: no try is spent, one line is logged, what it does know goes on, and the new worker applies it."""
    async with asyncio.timeout(20), old_worker(redis, pool, leave_s=600) as running:
        for n in range(3):
            await redis.enqueue_job("create_product", **product_fields(f"sku-{n}"), _job_id=f"p{n}")
        await redis.enqueue_job("create_user", **user_fields("ada"), _job_id="u")
        assert ["create_product"] == await left(logs)
        await drained(redis, running, left=3)
        assert not await redis.exists("arq:retry:p0")
        async with a_worker(redis, pool, "new") as new:
            await drained(redis, new)
    ledger = await rows(connection)
    assert {"applied"} == {row["status"] for row in ledger.values()}
    assert {"p0": 1, "p1": 1, "p2": 1, "u": 1} == {job_id: row["attempts"] for job_id, row in ledger.items()}


async def test_a_newer_field_is_left_too(redis: ArqRedis, pool: Pool, connection: Any, logs: list[Any]) -> None:
    """It is rejected if no worker takes it within the time that is set."""
    async with asyncio.timeout(20), old_worker(redis, pool, leave_s=0.3) as running:
        await redis.enqueue_job("create_user", **user_fields("ada"), shoe_size=42, _job_id="newer")
        await redis.enqueue_job("create_product", **product_fields("tea"), _job_id="unknown")
        await left(logs)
        await drained(redis, running)
    ledger = await rows(connection)
    assert {"newer", "unknown"} == set(ledger)
    assert {("rejected", "invalid")} == {(row["status"], row["reason"]) for row in ledger.values()}
    assert "shoe_size: Extra inputs" in ledger["newer"]["error"]
    assert "names no function that there is" in ledger["unknown"]["error"]


@pytest.mark.parametrize(
    ("fields", "newer"),
    [
        ({"shoe_size": 42}, True),
        ({f"field_{number}": 1 for number in range(11)}, True),
        ({"usernme": "ada", "username": ...}, False),
        ({"username": ...}, False),
        ({"shoe_size": 42, "username": 7}, False),
    ],
)
def test_only_unknown_fields_are_a_newer_versions(fields: dict[str, Any], newer: bool) -> None:  # noqa: FBT001
    """A misspelt field leaves another one missing, and is rejected at once."""
    job_type = JOBS.get("create_user")
    assert job_type is not None
    rejected = job_type.parse({name: value for name, value in {**user_fields(), **fields}.items() if value is not ...})
    assert isinstance(rejected, Rejected)
    assert newer == rejected.is_newer
