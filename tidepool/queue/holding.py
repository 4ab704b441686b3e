"""Tracks the jobs that this process holds.

`leases` claims them, `renewal` renews their lease, and `finisher` acknowledges them. If the lease is lost, the process
goes on under a new owner name, and may have running jobs of two owners at a time; the lease of the old one is not
renewed.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence

import structlog
from redis.asyncio import Redis

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Release
from tidepool.queue.faults import Outage
from tidepool.queue.finisher import Ending, Finisher
from tidepool.queue.leases import Leases, Recall
from tidepool.queue.renewal import LONGEST_BLOCK_S, Renewal
from tidepool.queue.scripts import MOST_BYTES_AT_ONCE
from tidepool.queue.wire import MAX_PAYLOAD_BYTES

log = structlog.get_logger(__name__)

_DOUBT_S, _LOOK_AGAIN_S = 120.0, 5.0
"""Seconds for which, and between which, `Holding` looks for strays after an interrupted claim."""


class Holding:
    """The jobs that this worker process holds: claims them, renews their lease, and acknowledges those that have ended.

    *acknowledged* is called with jobs that were acknowledged. *name* is the name of this process in Redis. The owner,
    the name under which jobs are held, is *name*, a dot and a number, which grows when a lease is lost. A lease lasts
    *lease_s* seconds; `Renewal` explains *longest_block_s*.
    """

    def __init__(
        self,
        redis: Redis,
        queue_name: str,
        *,
        name: str,
        lease_s: float,
        outage: Outage,
        acknowledged: Callable[[Sequence[Job]], None],
        max_job_bytes: int = MAX_PAYLOAD_BYTES,
        longest_block_s: float = LONGEST_BLOCK_S,
    ) -> None:
        self._name = name
        self._number = 0
        self._lease_s = lease_s
        self._notify_acknowledged = acknowledged
        self._ids: set[str] = set()
        """Ids of the jobs that are held under the current owner name."""
        self._suspect: Job | None = None
        """A job during which two owners lost their lease, as it may crash a process; only one is held at a time."""
        self._look_s, self._doubtful_until_s = math.inf, 0.0
        """When to look for strays next, and until when to repeat that (monotonic seconds).

        Strays are jobs that are claimed in Redis, but unknown here because the reply to the claim was lost.
        """
        lease_ms = int(lease_s * 1000)
        self._leases = Leases(redis, queue_name, lease_ms=lease_ms, max_job_bytes=max_job_bytes)
        self._finisher = Finisher(self._leases, outage, self._acknowledged)
        self._renewal = Renewal(
            *(redis, queue_name),
            lease_ms=lease_ms,
            owner=self._owner_at_work,
            lost=self._lost,
            longest_block_s=longest_block_s,
        )

    @property
    def owner(self) -> str:
        """The name in Redis under which this process claims jobs; it changes when the process has lost its lease."""
        return f"{self._name}.{self._number}"

    @property
    def is_midway(self) -> bool:
        """Whether the last claim stopped before it had looked at all due jobs, so that another claim may find more."""
        return self._leases.is_midway

    async def claim(
        self, room: int, max_bytes: int = MOST_BYTES_AT_ONCE, *, skipped: Iterable[bytes] = ()
    ) -> list[Job]:
        """Reserve up to *room* due jobs for this process, max *max_bytes* of content or one larger job; return them.

        The jobs with the ids *skipped* are left to other workers. Raises an error that stopped the acknowledgements,
        and the errors of Redis's client.
        """
        self._finisher.check()
        if time.monotonic() >= self._look_s:
            await self._look_for_strays()
        if room <= 0:
            return []
        self._renewal.check(self.owner)
        asked_s = time.monotonic()
        claimed, returned = await self._leases.claim(
            self.owner, room, suspect_too=self._suspect is None, max_bytes=max_bytes, skipped=skipped
        )
        if returned:
            log.info("jobs.recovered", jobs=returned)
        if not self._ids:
            self._renewal.begin(asked_s)
        owner = self.owner
        self._ids.update(job.queue_id for job in claimed if job.owner == owner)
        self._suspect = next((job for job in claimed if job.lapses > 1), self._suspect)
        return claimed

    async def aborted(self, job_ids: Sequence[str]) -> list[str]:
        """Return those of *job_ids* that a client asked to abort, and delete the requests of the client from Redis."""
        return await self._leases.aborted(job_ids)

    async def announce(self, functions: Iterable[str], deserializer: str) -> None:
        """Record for ten minutes which functions this process has, and how it decodes jobs; see `Leases.announce`."""
        await self._leases.announce(functions, deserializer)

    async def gone(self, job_ids: Sequence[bytes]) -> list[bytes]:
        """Return those of *job_ids* that are not in the queue."""
        return await self._leases.gone(job_ids)

    async def recall(self, recalls: Sequence[Recall]) -> None:
        """Make jobs due that were put back with a delay, unless they have left the queue or are held by a worker."""
        if recalls:
            await self._leases.recall(recalls)

    def doubt(self) -> None:
        """Record that a claim was interrupted, and may have reserved jobs in Redis although no reply arrived here.

        The next calls of `claim` put such jobs back into the queue, for two minutes: a command may reach Redis up to a
        minute after the caller has given it up, when the network works again.
        """
        self._look_s = time.monotonic()
        self._doubtful_until_s = self._look_s + _DOUBT_S

    def finish(self, job: Job, ending: Ending) -> None:
        """Queue the acknowledgement (Redis records that the job has ended, or puts it back) of an attempt at *job*.

        *ending* is how the attempt ended. The acknowledgement is sent to Redis in a batch.
        """
        if self._suspect is job:
            self._suspect = None
        self._finisher.put(job, ending)

    async def drain(self) -> None:
        """Wait until all queued acknowledgements of ended jobs have been sent to Redis."""
        await self._finisher.drain()

    async def give_back(self) -> None:
        """Acknowledge the jobs that have ended, and put all others of this process back into the queue.

        Called when the worker stops. Raises `TimeoutError` if that takes longer than a lease.
        """
        async with asyncio.timeout(self._lease_s):
            await self.drain()
            await self._release_strays(set())
            await self.drain()
        self._finisher.check()

    async def close(self) -> None:
        """Stop renewing the lease. It then expires, and other workers can take over the jobs of this process."""
        await self._renewal.close()

    async def _look_for_strays(self) -> None:
        await self.drain()  # what is done first: a claim could put it back and run it again
        await self._release_strays(set(self._ids))
        now_s = time.monotonic()
        self._look_s = now_s + _LOOK_AGAIN_S if now_s < self._doubtful_until_s else math.inf

    async def _release_strays(self, known: set[str]) -> None:
        """Put the jobs back that this owner holds in Redis but that are not *known*: their claim's reply was lost."""
        owner = self.owner
        for job_id in await self._leases.strays(owner, known):
            self._finisher.put(Job(job_id, owner), Release())

    def _acknowledged(self, jobs: Sequence[Job]) -> None:
        owner = self.owner
        self._ids.difference_update(job.queue_id for job in jobs if job.owner == owner)
        self._notify_acknowledged(jobs)

    def _owner_at_work(self) -> str | None:
        """Return the current owner name, or None if it holds no jobs. Called from the renewal thread."""
        return self.owner if self._ids else None

    def _lost(self, owner: str) -> None:
        if owner == self.owner:
            log.warning("lease.lost", owner=owner, jobs=len(self._ids), at="renewal")
            self._number += 1
            self._ids.clear()
