"""Redis's side of the relay, which copies the jobs of the outbox into the queue (`tidepool.ledger.relay`).

One relay of a queue works at a time. It holds a lease on a key, which it renews once a second with another value: a few
seconds after its process was killed, another one takes over. A value that stays the same is nobody's, whatever other
program has written it. A second key shows whether Redis has lost its data: it is written when all jobs of the outbox
have been copied, and disappears with them.
"""

import itertools
import time
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
        self._name = name.encode() + b" "
        self._renewals = itertools.count()
        self._seen = b""
        """The last value of the lease's key that was another process's."""
        self._seen_s = 0.0
        """When it was first seen (monotonic seconds)."""
        self._script = scripts.load(redis, "enqueue")
        self._dead_letters = DeadLetters(redis, queue_name)

    async def claim(self) -> bool:
        """Take or renew the lease of the relay; return whether this process has it."""
        value = self._name + str(next(self._renewals)).encode()
        if await self._redis.set(self._keys.relay, value, nx=True, px=LEASE_MS):
            return True
        owner = await self._read(self._keys.relay)
        if owner and not owner.startswith(self._name) and self._is_renewed(owner):
            return False
        await self._redis.set(self._keys.relay, value, px=LEASE_MS)
        return True

    async def release(self) -> None:
        """Give the lease up, if this process has it."""
        if (await self._read(self._keys.relay)).startswith(self._name):
            await self._redis.delete(self._keys.relay)

    async def is_refilled(self) -> bool:
        """Return whether Redis has had all jobs of the outbox since it last lost its data."""
        return await self._read(self._keys.refilled) == b"yes"

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

    async def _read(self, key: str) -> bytes:
        """Return the value of a key; nothing if there is none, or if it is of a wrong type."""
        try:
            return await self._redis.get(key) or b""
        except Exception as error:
            if RedisFault.of(error) is not RedisFault.WRONG_TYPE:
                raise
            return b""

    def _is_renewed(self, owner: bytes) -> bool:
        """Return whether the process whose value *owner* is may still be at work."""
        if owner != self._seen:
            self._seen, self._seen_s = owner, time.monotonic()
        return time.monotonic() <= self._seen_s + LEASE_MS / 1000


def is_outage(error: Exception) -> bool:
    """Return whether *error* means that Redis is unavailable for now."""
    return RedisFault.of(error).is_outage
