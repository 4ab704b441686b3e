"""taskiq with its Redis list broker and result backend. No bulk call: the sends of a chunk run at a time."""

import asyncio
import sys

from body import REDIS, chunks, create_user, open_pool
from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

broker = ListQueueBroker(REDIS).with_result_backend(RedisAsyncResultBackend(REDIS, result_ex_time=3600))


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def _startup(state: TaskiqState) -> None:
    state.pool = await open_pool()


@broker.task("job")
async def job(number: int, context: Context = TaskiqDepends()) -> int:  # noqa: B008
    """Run the job."""
    return await create_user(context.state.pool, number)


async def enqueue(count: int) -> None:
    """Preload the queue."""
    await broker.startup()
    for numbers in chunks(count):
        await asyncio.gather(*(job.kiq(number) for number in numbers))
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(enqueue(int(sys.argv[2])))
