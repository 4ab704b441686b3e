"""When a job is acknowledged: after its commit, and not a moment before."""

from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.constants import abort_jobs_ss
from factories import user_fields
from planting import QUEUE, a_worker, drained
from waiting import until

from tidepool.client import JobClient
from tidepool.pool.pool import Pool


async def test_a_job_stays_in_the_queue_until_its_effect_is_committed(
    redis: ArqRedis, client: JobClient, pool: Pool, connection: Any
) -> None:
    """No result is stored before its transaction has ended: a worker killed now leaves the job to others."""

    async def somebody_waits() -> bool:
        return await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")

    async with a_worker(redis, pool) as running:
        async with connection.transaction():
            await connection.execute("LOCK TABLE job_results")
            await client.enqueue("create_user", user_fields(), job_id="a")
            await until(somebody_waits)
            assert [b"a"] == await redis.zrange(QUEUE, 0, -1)
            assert "in_progress" == await client.status("a")
        await drained(redis, running)
    assert "applied" == (await client.result("a", timeout_s=5))["status"]


@pytest.mark.parametrize("seems", ["failed", "aborted", "expired"])
async def test_what_was_applied_is_reported_as_applied(
    redis: ArqRedis, client: JobClient, pool: Pool, seems: str
) -> None:
    """Its worker was lost before it could acknowledge it, and three times so, or the job was aborted meanwhile."""
    async with a_worker(redis, pool) as running:
        await client.enqueue("create_user", user_fields(), job_id="a")
        await drained(redis, running)
        first = await client.result("a", timeout_s=5)
        await redis.delete("arq:result:a")
        if seems == "failed":
            await redis.hset(f"{QUEUE}:lapses", "a", "3")
        if seems == "aborted":
            await redis.zadd(abort_jobs_ss, {"a": 1})
        if seems != "expired":
            await client.enqueue("create_user", user_fields(), job_id="a")
        else:
            await redis.zadd(QUEUE, {"a": 1})
        await drained(redis, running)
        assert "applied" == first["status"]
        assert first == await client.result("a", timeout_s=5)
