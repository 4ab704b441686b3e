"""Tracks the jobs that this process has claimed, and the owner name under which it holds them in Redis.

The owner's jobs are held under one lease, which `renewal` renews. If the lease is lost, the process goes on under a
new owner name. Other workers may run the old owner's jobs then, and their acknowledgements from here are rejected. So
this process may have running jobs of two owners at a time; the lease of the old one is not renewed.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence

import structlog
from redis.asyncio import Redis

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Release
from tidepool.queue.faults import Outage
from tidepool.queue.finisher import Finisher
from tidepool.queue.leases import MOST_BYTES_AT_ONCE, Ending, Leases
from tidepool.queue.renewal import Renewal
from tidepool.queue.wire import MAX_PAYLOAD_BYTES

log = structlog.get_logger(__name__)

_DOUBT_S, _LOOK_AGAIN_S = 120.0, 5.0


class Holding:
    """Claims jobs, renews their lease, and acknowledges them; calls *acknowledged* with the jobs it has acknowledged.

    *name* is the name of this process in Redis; the name of an owner is *name*, a dot and a number. *lease_s* is in
    seconds.
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
        self._renewal = Renewal(redis, queue_name, lease_ms=lease_ms, owner=self._owner_at_work, lost=self._lost)

    @property
    def owner(self) -> str:
        """The name under which this process claims jobs; it changes when a lease is lost."""
        return f"{self._name}.{self._number}"

    @property
    def is_midway(self) -> bool:
        """Whether the last claim stopped before it had looked at all due jobs, so that more may be claimed at once."""
        return self._leases.is_midway

    async def claim(self, room: int, max_bytes: int = MOST_BYTES_AT_ONCE) -> list[Job]:
        """Claim up to *room* due jobs with max *max_bytes* of content together, or one larger job, and return them.

        Raises an error that stopped the acknowledgements, and the errors of Redis's client.
        """
        self._finisher.check()
        if time.monotonic() >= self._look_s:
            await self._look_for_strays()
        if room <= 0:
            return []
        self._renewal.check(self.owner)
        asked_s = time.monotonic()
        claimed, returned = await self._leases.claim(
            self.owner, room, suspect_too=self._suspect is None, max_bytes=max_bytes
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
        """Return those of *job_ids* that a client asked to abort, and delete these requests from Redis."""
        return await self._leases.aborted(job_ids)

    def doubt(self) -> None:
        """Record that a claim was interrupted: it may have claimed jobs in Redis although no reply arrived here.

        The next calls of `claim` put such jobs back into the queue, for two minutes: a command may reach Redis up to a
        minute after the caller has given it up, when the network works again.
        """
        self._look_s = time.monotonic()
        self._doubtful_until_s = self._look_s + _DOUBT_S

    def finish(self, job: Job, ending: Ending) -> None:
        """Queue the acknowledgement of a job, which ended as *ending* says; it is sent in a batch."""
        if self._suspect is job:
            self._suspect = None
        self._finisher.put(job, ending)

    async def drain(self) -> None:
        """Wait until all queued acknowledgements are sent."""
        await self._finisher.drain()

    async def give_back(self) -> None:
        """Acknowledge the ended jobs and put the others back into the queue, when the worker stops.

        Raises `TimeoutError` if that takes longer than a lease.
        """
        async with asyncio.timeout(self._lease_s):
            await self.drain()
            await self._release_strays(set())
            await self.drain()
        self._finisher.check()

    async def close(self) -> None:
        """Stop the renewal of the lease, so that it expires and other workers can take the jobs over."""
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
