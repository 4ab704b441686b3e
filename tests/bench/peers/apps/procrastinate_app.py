"""procrastinate on PostgreSQL."""

import asyncio
import sys
from typing import Any

import procrastinate
from body import DATABASE, chunks, create_user, open_pool

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=DATABASE, min_size=4, max_size=20))
pools: list[Any] = []


@app.task(queue="bench", name="job")
async def job(number: int) -> int:
    """Run the job."""
    return await create_user(pools[0], number)


async def enqueue(count: int) -> None:
    """Make its tables where they are missing, and preload the queue."""
    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        for numbers in chunks(count):
            await job.batch_defer_async(*({"number": number} for number in numbers))


async def work() -> None:
    """Run a worker."""
    pools.append(await open_pool())
    async with app.open_async():
        await app.run_worker_async(concurrency=20, queues=["bench"])


if __name__ == "__main__":
    if sys.argv[1] == "enqueue":
        asyncio.run(enqueue(int(sys.argv[2])))
    else:
        import uvloop

        uvloop.run(work())
