"""An arq client whose jobs have ids of its application's own, for applications that share a Redis database.

arq's keys of a job consist of its id and are the same for all queues: `arq:job:{id}`, `arq:result:{id}`. Two
applications that use an id of the same text, `order-17` or the tick of a cron job of the same name, would refuse each
other's jobs and read each other's results. A prefix of the id separates them. To everybody else the prefix is a part of
the id, so workers, stock clients and dashboards need not know of it.
"""

import asyncio
import re
from operator import attrgetter
from typing import Any
from uuid import uuid4

from arq.connections import ArqRedis
from arq.constants import result_key_prefix
from arq.jobs import Job, JobResult


class ScopedRedis(ArqRedis):
    """An arq client that puts *id_prefix* before the id of each job that it enqueues, and is otherwise as *redis*.

        redis = ScopedRedis(await create_pool(redis_settings), "shop:")
        await redis.enqueue_job("charge", 990, _job_id="order-17")      # the job `shop:order-17`
        await redis.job("order-17").result()

    It shares the connections of *redis*, so closing either closes both. An id that begins with the prefix stays as it
    is. A worker with `EngineOptions(id_prefix=…)` uses such a client for its cron jobs and as `ctx["redis"]`.
    """

    def __init__(self, redis: ArqRedis, id_prefix: str) -> None:
        super().__init__(
            redis.connection_pool,  # pyright: ignore[reportArgumentType]  (annotated as that of redis-py's other client, too)
            job_serializer=redis.job_serializer,
            job_deserializer=redis.job_deserializer,
            default_queue_name=redis.default_queue_name,
            expires_extra_ms=redis.expires_extra_ms,
        )
        self.auto_close_connection_pool = redis.auto_close_connection_pool
        self._id_prefix = id_prefix

    async def enqueue_job(self, function: str, *args: object, _job_id: str | None = None, **kwargs: Any) -> Job | None:
        """Enqueue a job, with arq's options; its id, chosen or random, begins with the prefix.

        Returns None if the job is in the queue already, or has a result. The returned job's `job_id` is the whole id.
        """
        return await super().enqueue_job(function, *args, _job_id=self._whole(_job_id or uuid4().hex), **kwargs)

    def job(self, job_id: str, queue_name: str | None = None) -> Job:
        """Return arq's handle of a job, with the id that it was enqueued with; nothing is read from Redis yet.

        *queue_name* is the job's queue; None: this client's default.
        """
        return Job(self._whole(job_id), self, queue_name or self.default_queue_name, self.job_deserializer)

    async def all_job_results(self) -> list[JobResult]:
        """Return the results that are kept of jobs whose ids begin with the prefix, the job enqueued first first."""
        pattern = re.sub(r"([\\*?\[\]^-])", r"\\\1", result_key_prefix + self._id_prefix) + "*"
        found = await asyncio.gather(*map(self._get_job_result, await self.keys(pattern)))
        return sorted(found, key=attrgetter("enqueue_time"))

    def _whole(self, job_id: str) -> str:
        return job_id if job_id.startswith(self._id_prefix) else self._id_prefix + job_id
