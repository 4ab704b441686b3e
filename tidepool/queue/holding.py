"""Tracks the jobs that this process has claimed, and the owner name under which it holds them in Redis.

It holds jobs as an *owner*, under one lease that `renewal` keeps. Where the lease is lost all the same, it goes on as
another owner: others have the old one's jobs by then, and what it finishes of them is refused. So jobs of two owners
may be under way here; those of the lost one keep no lease.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence

import structlog
from redis.asyncio import Redis

from tidepool.jobs.job import Job
from tidepool.queue.faults import Outage
from tidepool.queue.finisher import Finisher
from tidepool.queue.leases import MOST_BYTES_AT_ONCE, Ending, Leases, Release
from tidepool.queue.renewal import Renewal
from tidepool.queue.wire import MAX_PAYLOAD_BYTES

log = structlog.get_logger(__name__)

_DOUBT_S, _LOOK_AGAIN_S = 120.0, 5.0


class Holding:
    """Claims jobs, renews their lease, and acknowledges them; calls *acknowledged* with those that are acknowledged.

    *name* is this process's in Redis; an owner's is that and a number.
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
        """Ids of the jobs that the present owner holds."""
        self._suspect: Job | None = None
        """A job that two owners were lost with. A process holds one such job at a time."""
        self._look_s, self._doubtful_until_s = math.inf, 0.0
        """When to look for strays next, and until when again and again."""
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
        """Whether the last claim stopped before it had looked at all due jobs."""
        return self._leases.is_midway

    async def claim(self, room: int, max_bytes: int = MOST_BYTES_AT_ONCE) -> list[Job]:
        """Claim up to *room* due jobs with at most *max_bytes* of content together, or one larger job."""
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
        """Return which of these jobs are to be aborted, and remove their marks in Redis."""
        return await self._leases.aborted(job_ids)

    def doubt(self) -> None:
        """Remember that a claim was cut short: it may have claimed jobs in Redis whose list never arrived here.

        A command may reach Redis up to a minute after the caller has given it up, when the network works again.
        """
        self._look_s = time.monotonic()
        self._doubtful_until_s = self._look_s + _DOUBT_S

    def finish(self, job: Job, ending: Ending) -> None:
        """Acknowledge a job, together with the others of this turn of the event loop."""
        if self._suspect is job:
            self._suspect = None
        self._finisher.put(job, ending)

    async def drain(self) -> None:
        """Wait until everything is acknowledged."""
        await self._finisher.drain()

    async def give_back(self) -> None:
        """Acknowledge the ended jobs and put the others back. Raises `TimeoutError` after the length of a lease."""
        async with asyncio.timeout(self._lease_s):
            await self.drain()
            await self._release_strays(set())
            await self.drain()
        self._finisher.check()

    async def close(self) -> None:
        """Stop renewing the lease, so that it expires."""
        await self._renewal.close()

    async def _look_for_strays(self) -> None:
        await self.drain()  # what is done first: a claim could put it back and run it again
        await self._release_strays(set(self._ids))
        now_s = time.monotonic()
        self._look_s = now_s + _LOOK_AGAIN_S if now_s < self._doubtful_until_s else math.inf

    async def _release_strays(self, known: set[str]) -> None:
        """Put jobs back that are held in Redis but not *known* here: the reply to their claim was lost."""
        owner = self.owner
        for job_id in await self._leases.strays(owner, known):
            self._finisher.put(Job(job_id, job_id, owner), Release())

    def _acknowledged(self, jobs: Sequence[Job]) -> None:
        owner = self.owner
        self._ids.difference_update(job.queue_id for job in jobs if job.owner == owner)
        self._notify_acknowledged(jobs)

    def _owner_at_work(self) -> str | None:
        """Return the owner if it holds any jobs. Called from the renewal's thread."""
        return self.owner if self._ids else None

    def _lost(self, owner: str) -> None:
        if owner == self.owner:
            log.warning("lease.lost", owner=owner, jobs=len(self._ids), at="renewal")
            self._number += 1
            self._ids.clear()
