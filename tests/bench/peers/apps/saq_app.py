"""SAQ on Redis. No bulk call: its enqueues of a chunk run at a time."""

import asyncio
import sys

import saq
from body import REDIS, chunks, create_user, open_pool

queue = saq.Queue.from_url(REDIS)


async def job(ctx: dict, *, number: int) -> int:
    """Run the job."""
    return await create_user(ctx["pool"], number)


async def _startup(ctx: dict) -> None:
    ctx["pool"] = await open_pool()


settings = {"queue": queue, "functions": [job], "concurrency": 50, "startup": _startup}


async def enqueue(count: int) -> None:
    """Preload the queue."""
    await queue.connect()
    for numbers in chunks(count):
        await asyncio.gather(*(queue.enqueue("job", number=number) for number in numbers))
    await queue.disconnect()


if __name__ == "__main__":
    if sys.argv[1] == "enqueue":
        asyncio.run(enqueue(int(sys.argv[2])))
    else:
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        saq.worker.start("saq_app.settings")
