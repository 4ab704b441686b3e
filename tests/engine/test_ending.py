"""A worker of ours that ends by itself after a number of jobs, so that a supervisor replaces it."""

import asyncio
from typing import Any

import arq.worker
from arq.connections import ArqRedis
from arq.worker import func
from both_workers import add, again
from engines import own_client
from waiting import until

from tidepool.engine.worker import Worker
from tidepool.queue import wire


def a_worker(redis: ArqRedis, function: Any, *, max_jobs_run: int) -> Worker:
    """Return a worker that runs so many jobs of one function, called `job`."""
    worker = Worker(
        functions=[func(function, name="job", max_tries=3)],
        redis_pool=own_client(redis),
        handle_signals=False,
        job_serializer=wire.serialize,
        job_deserializer=wire.deserialize,
    )
    worker.tidepool_max_jobs_run = max_jobs_run
    return worker


async def ended(worker: arq.worker.Worker) -> None:
    """Wait until the worker has ended by itself, and close it."""
    async with asyncio.timeout(10):
        await worker.main()
    worker._handle_signals = True  # a closing worker that handles none would cancel the test's own task
    await worker.close()


async def test_it_runs_exactly_so_many_jobs_and_leaves_the_others(redis: ArqRedis) -> None:
    """Of five jobs it runs three, whose results are stored when it has ended."""
    for number in range(5):
        await redis.enqueue_job("job", number)
    worker = a_worker(redis, add, max_jobs_run=3)
    await ended(worker)
    assert (3, 2) == (worker.jobs_complete, await redis.zcard("arq:queue"))
    assert 3 == len(await redis.all_job_results())


async def test_each_attempt_counts(redis: ArqRedis) -> None:
    """Two attempts end in a retry, and the third is left to the next worker."""
    await redis.enqueue_job("job")
    worker = a_worker(redis, again, max_jobs_run=2)
    await ended(worker)
    assert (2, 0, 1) == (worker.jobs_retried, worker.jobs_complete, await redis.zcard("arq:queue"))


async def test_it_goes_on_living_until_the_last_job_has_ended(redis: ArqRedis) -> None:
    """It renews the lease and the health key of a long last job, and claims nothing in its place."""
    started, go = asyncio.Event(), asyncio.Event()

    async def long(ctx: dict[Any, Any]) -> None:
        started.set()
        await go.wait()

    await redis.enqueue_job("job")
    worker = a_worker(redis, long, max_jobs_run=1)
    ending = asyncio.create_task(ended(worker))
    async with asyncio.timeout(10):
        await started.wait()
    await redis.enqueue_job("job")
    health = worker.health_check_key
    await redis.delete(health)
    worker._last_health_check = 0  # it is due now

    async def renewed() -> bool:
        return bool(await redis.exists(health))

    await until(renewed)
    assert not ending.done()
    go.set()
    await ending
    assert (1, 1) == (worker.jobs_complete, await redis.zcard("arq:queue"))
