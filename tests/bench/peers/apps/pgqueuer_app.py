"""PgQueuer on PostgreSQL, in its own batches."""

import asyncio
import sys

import asyncpg
from body import DATABASE, chunks, create_user, open_pool
from pgqueuer import PgQueuer, Queries
from pgqueuer.models import Job


async def enqueue(count: int) -> None:
    """Make its tables where they are missing, and preload the queue."""
    connection = await asyncpg.connect(DATABASE)
    queries = Queries.from_asyncpg_connection(connection)
    if not await queries.schema_is_installed():
        await queries.install()
    for numbers in chunks(count):
        payloads = [str(number).encode() for number in numbers]
        await queries.enqueue(["job"] * len(numbers), payloads, [0] * len(numbers))
    await connection.close()


async def work() -> None:
    """Run a worker."""
    pool = await open_pool()
    worker = PgQueuer.from_asyncpg_connection(await asyncpg.connect(DATABASE))

    @worker.entrypoint("job")
    async def job(job: Job) -> None:
        await create_user(pool, int(job.payload or b"0"))

    await worker.run(batch_size=200, max_concurrent_tasks=400)


if __name__ == "__main__":
    if sys.argv[1] == "enqueue":
        asyncio.run(enqueue(int(sys.argv[2])))
    else:
        import uvloop

        uvloop.run(work())
