"""Steps of the tests of leases: enqueue, claim, let a lease lapse, end jobs."""

import time

from arq.connections import ArqRedis

from tidepool.jobs.job import Job
from tidepool.queue import wire
from tidepool.queue.finisher import Done, Ending
from tidepool.queue.leases import Leases
from tidepool.queue.state import QueueState

QUEUE = "arq:queue"


async def enqueue(redis: ArqRedis, *job_ids: str) -> None:
    """Enqueue jobs in this order, a millisecond apart."""
    now = time.time_ns() // 1_000_000 - 1000
    for number, job_id in enumerate(job_ids):
        await redis.set(f"arq:job:{job_id}", wire.serialize({"f": "f", "a": [], "k": {}, "t": None, "et": now}))
        await redis.zadd(QUEUE, {job_id: now + number})


async def claim(leases: Leases, owner: str, limit: int = 10, *, suspect_too: bool = False) -> list[str]:
    """Claim, and return the ids."""
    return [job.id for job in (await leases.claim(owner, limit, suspect_too=suspect_too))[0]]


async def lapse(redis: ArqRedis, owner: str) -> None:
    """Let an owner's lease end now, as if its process had been dead for ten seconds."""
    assert 1 == await QueueState(redis).release_owners(owner)
    async for key in redis.scan_iter("arq:in-progress:*"):
        if await redis.get(key) == owner.encode():
            await redis.delete(key)


def finished(job_id: str, ending: Ending, *, attempt: int = 1, is_retry: bool = False) -> tuple[Job, Ending]:
    """Return a job that ends so."""
    return Job(job_id, attempt=attempt, is_retry=is_retry), ending


def done(job_id: str, result: bytes = b"result", *, is_retry: bool = False) -> tuple[Job, Ending]:
    """Return a job that has ended."""
    return finished(job_id, Done(result, 1000), is_retry=is_retry)
