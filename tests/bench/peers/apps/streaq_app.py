"""streaq on Redis streams."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from body import REDIS, chunks, create_user, open_pool
from streaq import Worker


@asynccontextmanager
async def _lifespan() -> AsyncGenerator[Any]:
    yield await open_pool()


worker = Worker(redis_url=REDIS, lifespan=_lifespan, concurrency=32, prefetch=32)


@worker.task(silent=True, name="job")
async def job(number: int) -> int:
    """Run the job."""
    return await create_user(worker.context, number)


async def enqueue(count: int) -> None:
    """Preload the queue."""
    async with worker:
        for numbers in chunks(count):
            await worker.enqueue_many([job.enqueue(number) for number in numbers])


if __name__ == "__main__":
    if sys.argv[1] == "enqueue":
        asyncio.run(enqueue(int(sys.argv[2])))
    else:
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        worker.run_sync()
