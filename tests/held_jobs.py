"""A worker whose jobs wait until the test lets them go on, and jobs for it."""

import asyncio
from typing import Any

from arq.connections import ArqRedis
from arq.worker import func
from engines import own_client
from waiting import until

from tidepool.engine.options import EngineOptions
from tidepool.engine.worker import Worker
from tidepool.queue import wire

QUEUE = "arq:queue"


class Running:
    """A worker whose function `job` waits until it may go on."""

    def __init__(self, redis: ArqRedis, *, log_results: bool = True, **options: Any) -> None:
        self.may_end = asyncio.Event()
        self.at_work: list[str] = []
        self.most_at_work = 0

        async def job(ctx: dict[Any, Any], *_args: Any, **_kwargs: Any) -> str:
            self.at_work.append(ctx["job_id"])
            self.most_at_work = max(self.most_at_work, len(self.at_work))
            await self.may_end.wait()
            self.at_work.remove(ctx["job_id"])
            return "result"

        self.worker = Worker(
            functions=[func(job, name="job")],
            redis_pool=own_client(redis),
            handle_signals=False,
            allow_abort_jobs=True,
            log_results=log_results,
            tidepool=EngineOptions(**options),
            job_serializer=wire.serialize,
            job_deserializer=wire.deserialize,
        )
        self.task = self.worker.main_task = asyncio.create_task(self.worker.main())

    async def until_at_work(self, count: int) -> None:
        """Wait until so many jobs run."""

        async def are() -> bool:
            assert not self.task.done()
            return len(self.at_work) == count

        await until(are)


def is_empty(redis: ArqRedis) -> Any:
    """Return a condition: nothing is in the queue."""

    async def empty() -> bool:
        return not await redis.zcard(QUEUE)

    return empty


def is_idle(running: Running) -> Any:
    """Return a condition: the worker has no job any more."""

    async def idle() -> bool:
        return not running.worker.tasks

    return idle


async def enqueue(redis: ArqRedis, *ids: str | bytes, size: int = 0) -> None:
    """Enqueue jobs of so many bytes, due in this order."""
    for number, job_id in enumerate(ids):
        name = job_id.encode() if isinstance(job_id, str) else job_id
        payload = wire.serialize({"f": "job", "a": ["x" * size], "k": {}, "t": None, "et": 1_764_000_000_000})
        await redis.set(b"arq:job:" + name, payload)
        await redis.zadd(QUEUE, {name: number + 1})
