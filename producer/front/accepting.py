"""From a valid command to a job in the queue, and to its outcome where the caller waits for it."""

from collections.abc import Sequence

from arq.connections import ArqRedis

from producer.client import MOST_AT_ONCE, JobClient
from producer.front.sharing import Shared
from producer.front.waiting import Waits
from producer.submission import Submission
from worker.db.pool import Pool
from worker.db.repositories import Repositories
from worker.outcomes import Outcome


class Accepting:
    """Enqueues for all requests of this process; those that come together share round trips."""

    def __init__(self, redis: ArqRedis, pool: Pool, *, patience_s: float) -> None:
        self._pool = pool
        self._enqueue = Shared(JobClient(redis, patience_s=patience_s).enqueue_many, MOST_AT_ONCE)
        self._lookup = Shared(self._lookup_many, MOST_AT_ONCE)
        self.waits = Waits(redis)

    async def accept(self, submission: Submission) -> None:
        """Enqueue a job unless Redis knows its id. Raises `redis.exceptions.RedisError` where Redis stays away."""
        await self._enqueue(submission)

    async def settled(self, job_id: str) -> Outcome | None:
        """Return the outcome that the ledger has of a job. Raises the faults of `worker.db.faults`."""
        return await self._lookup(job_id)

    async def _lookup_many(self, job_ids: Sequence[str]) -> Sequence[Outcome | None]:
        async with self._pool.acquire() as connection:
            found = await Repositories(connection).results.lookup(job_ids)
        return [found.get(job_id) for job_id in job_ids]
