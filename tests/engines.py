"""Workers of ours in a test's own process: their connections, and their end."""

import asyncio
from collections.abc import Callable

from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool

from tidepool.engine.worker import Worker

Start = Callable[..., Worker]
"""Makes a worker of the given functions and options, and lets it run."""


def own_client(redis: ArqRedis) -> ArqRedis:
    """Return a client of the same Redis for a worker, which closes its connections when it ends."""
    pool = redis.connection_pool
    return ArqRedis(
        ConnectionPool(connection_class=pool.connection_class, **pool.connection_kwargs),
        job_serializer=redis.job_serializer,
        job_deserializer=redis.job_deserializer,
        default_queue_name=redis.default_queue_name,
    )


async def stop(worker: Worker) -> None:
    """Cancel a worker that runs, and close it."""
    if worker.main_task is not None:
        worker.main_task.cancel()
        await asyncio.gather(worker.main_task, return_exceptions=True)
    await worker.close()


async def ended(worker: Worker) -> None:
    """Wait until a worker that was started has ended by itself; raises its error."""
    assert worker.main_task is not None
    async with asyncio.timeout(20):
        await worker.main_task
