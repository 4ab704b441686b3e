"""Redis's side of the relay, which copies the jobs of the outbox into the queue (`tidepool.ledger.relay`).

One relay of a queue works at a time. It holds a lease on a key, which it renews once a second, so another one takes
over within a few seconds after its process was killed. A second key shows whether Redis has lost its data: it is
written when all jobs of the outbox have been copied, and disappears with them.
"""

import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis

from tidepool.queue import scripts, wire
from tidepool.queue.dead_letters import DeadLetters
from tidepool.queue.faults import RedisFault
from tidepool.queue.wire import QueueKeys

LEASE_MS = 3000
"""For how long a relay keeps the others away without renewing its lease."""
_RECEIPT_MS = 1
"""A relay repeats a call that failed with other jobs, so it needs no receipt of the last one."""


class QueuedJob(NamedTuple):
    """A job as `RelayQueue.enqueue` takes it."""

    job_id: str
    payload: bytes
    due_ms: int | None
    """When it may run first, Unix milliseconds; None: now."""


class Presence(NamedTuple):
    """What Redis has of a job: its content, and its result."""

    job: bool
    result: bool


class RelayQueue:
    """A queue as the relay uses it. *name* is that of its process. Its methods raise the errors of Redis's client."""

    def __init__(self, redis: Redis, queue_name: str, name: str) -> None:
        self._redis: Any = redis
        self._keys = QueueKeys(queue_name)
        self._name = name.encode()
        self._script = scripts.load(redis, "enqueue")
        self._dead_letters = DeadLetters(redis, queue_name)

    async def claim(self) -> bool:
        """Take or renew the lease of the relay; return whether this process has it."""
        asking = self._redis.pipeline(transaction=False)
        asking.set(self._keys.relay, self._name, nx=True, px=LEASE_MS)
        asking.get(self._keys.relay)
        _, owner = await asking.execute()
        return owner == self._name and bool(await self._redis.pexpire(self._keys.relay, LEASE_MS))

    async def release(self) -> None:
        """Give the lease up, if this process has it."""
        if await self._redis.get(self._keys.relay) == self._name:
            await self._redis.delete(self._keys.relay)

    async def is_refilled(self) -> bool:
        """Return whether Redis has had all jobs of the outbox since it last lost its data."""
        return await self._redis.get(self._keys.refilled) == b"yes"

    async def begin_refill(self) -> None:
        """Record that the jobs of the outbox are being copied again."""
        await self._redis.set(self._keys.refilled, b"no")

    async def end_refill(self) -> None:
        """Record that all have been copied, unless Redis has lost its data since `begin_refill`."""
        await self._redis.set(self._keys.refilled, b"yes", xx=True)

    async def enqueue(self, jobs: Sequence[QueuedJob], *, again: bool = False) -> str:
        """Enqueue up to 500 jobs, which can be repeated; return a character for each, as `enqueue.lua` replies."""
        args = [_RECEIPT_MS, int(again)]
        args += [part for one in jobs for part in (one.job_id, one.payload, "" if one.due_ms is None else one.due_ms)]
        reply: bytes = await self._script(keys=[self._keys.queue, wire.RECEIPT + uuid.uuid4().hex], args=args)
        return reply.decode()

    async def presence(self, job_ids: Sequence[str]) -> list[Presence]:
        """Return what Redis has of each job."""
        asking = self._redis.pipeline(transaction=False)
        for job_id in job_ids:
            asking.exists(wire.JOB + job_id)
            asking.exists(wire.RESULT + job_id)
        found = iter(await asking.execute())
        return [Presence(bool(job), bool(next(found))) for job in found]

    async def dead(self, job_ids: Sequence[str]) -> set[str]:
        """Return those of the jobs that are dead letters: they wait outside the queue until they are put back."""
        if not job_ids or await self._dead_letters.count() == 0:
            return set()
        return {letter.job_id for letter in await self._dead_letters.oldest(len(job_ids), job_ids)}


def is_outage(error: Exception) -> bool:
    """Return whether *error* means that Redis is unavailable for now."""
    return RedisFault.of(error).is_outage
