"""When a job is acknowledged: after its commit, and not a moment before."""

from typing import Any

from arq.connections import ArqRedis
from factories import user_fields
from planting import QUEUE, a_worker, drained
from waiting import until

from producer.client import JobClient
from worker.db.pool import Pool


async def test_a_job_stays_in_the_queue_until_its_effect_is_committed(
    redis: ArqRedis, client: JobClient, pool: Pool, connection: Any
) -> None:
    """While its transaction cannot end nobody is told a result: a worker killed now leaves the job to others."""

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
