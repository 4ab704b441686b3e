"""Claims jobs under a lease and acknowledges them, hundreds in one round trip to Redis.

An *owner* is one worker process, or what it becomes after it lost its leases: a new owner. It holds
jobs under one lease, which one command renews for all of them. `keys.QueueKeys` has the structures beside arq's own.

To hold a job is to have it in one's `held` set, and every finish asks that first. When an owner's
lease ends, whoever claims next moves its jobs back to their old places in the queue; from then on the
owner that was lost can neither finish nor overwrite anything, however late it wakes up.

All of this is data that others can write, too. A key of a wrong type is skipped; one of ours is deleted by
the next claim, which names it. A queue of a wrong type is an error of each claim, until somebody has mended it.

To stock arq a claimed job is one that is in progress (its `arq:in-progress:` key) and not due (its raised score), so
both kinds of workers can share a queue. These two marks last for two leases, and are renewed for jobs that are held
for longer than half of one: most never are. Where no worker of ours is left to put a lost owner's jobs back, they are
due again when their marks end.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from arq.constants import abort_job_max_age
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from tidepool.jobs.ids import ledger_id
from tidepool.jobs.job import Job
from tidepool.queue import keys, scripts
from tidepool.queue.faults import REDIS_ERRORS, Oddities, is_wrong_type
from tidepool.queue.keys import QueueKeys
from tidepool.queue.wire import MAX_PAYLOAD_BYTES, now_ms

MOST_AT_ONCE = 250
"""Jobs in one call of a script: larger ones are slower a job, and Lua cannot unpack thousands of values."""
MOST_BYTES_AT_ONCE = 4 * 1024 * 1024
"""Ids and payloads in one claim, and results in one finish: Redis has several copies of them for the length of a call.
Of a single job it may be more."""
MOST_LAPSES = 3
"""Owners that may be lost with a job before it is failed instead of run."""
_MOST_DIGITS = 6
_MOST_OWNERS = 1000
"""That are looked at in one call: anybody may have added millions."""
_OWNERS_AT_ONCE = 16
"""That are read in a round trip: names that others planted may have megabytes, which only shows when they are read."""
_MAX_NAME_BYTES, _MAX_NAMES_BYTES = 1000, 8_388_608
"""Of one owner, and of all in one look. Planted ones that do not come last are removed by the next claim."""
_MOST_ABORTS = 1000
"""Jobs in one question for marks of aborts."""
_MOST_STRAYS = 1000
"""Jobs that one look finds: four times what a claim can have taken."""
_LATEST_MS = 253_402_300_799_999
"""The last millisecond that Python's datetime can hold."""


@dataclass(slots=True)
class Done:
    """The job has ended: its keys are deleted, and its result is kept for arq's clients."""

    result: bytes = b""
    """Empty: no result is kept."""
    keep_ms: int = 0
    """For how long the result is kept; 0: for ever."""
    success: bool = True
    mark_ms: int = 0
    """For how long the mark that it is in progress stays, which keeps a cron job from being enqueued twice."""


@dataclass(slots=True)
class Again:
    """The job is run again, and an attempt is spent."""

    attempt: int
    """Number of the attempt that has ended."""
    cause: str = ""
    """Kept in Redis until the job runs, for clients that look at it."""
    delay_ms: int = 0
    """0: at its old place in the queue."""


@dataclass(slots=True)
class Release:
    """The job is put back as it was, and no attempt is spent."""

    delay_ms: int = 0
    """0: at its old place in the queue."""


Ending = Done | Again | Release
"""How an attempt ends, as `finish.lua` is to record it."""


_Column: TypeAlias = tuple[bytes, bytes, bytes | int | None, bytes | None, bytes | None, bytes | None]
"""Of a claim's reply what belongs to one job: id, due time, payload, failed attempts, lapses, abort mark."""


class Backlog(NamedTuple):
    """The number of jobs in a queue, and the age of the oldest."""

    waiting: int
    """Due or later, and taken by nobody."""
    running: int
    oldest_s: float | None
    """For how long the first of those that are due has been; None where none is."""


class Leases:
    """Claims and acknowledges the jobs of one process in one queue. Payloads over *max_job_bytes* are not read."""

    def __init__(self, redis: Redis, queue_name: str, *, lease_ms: int, max_job_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._redis = redis
        self._keys = QueueKeys(queue_name)
        self._unusable = Oddities("redis.key_unusable")
        self._max_job_bytes = max_job_bytes
        self._first_rank = 0
        self.lease_ms = lease_ms
        self._claim = scripts.load(redis, "claim")
        self._finish = scripts.load(redis, "finish")
        self._aborts = scripts.load(redis, "aborts")

    async def claim(
        self, owner: str, limit: int, *, suspect_too: bool, max_bytes: int = MOST_BYTES_AT_ONCE
    ) -> tuple[list[Job], int]:
        """Claim up to *limit* due jobs with at most *max_bytes* of content together, or one larger job.

        Returns them, and how many jobs of lost owners were put back on the way. A call whose reply is lost may have
        taken jobs: `strays` finds them. Raises `ResponseError` with WRONGTYPE if the queue is no sorted set.

        A call does not get past more than some thousand jobs that are marked as somebody else's. `is_midway` is true
        then, and the next call goes on from there.
        """
        queue = self._keys
        args = [
            *(owner, self.lease_ms, min(limit, MOST_AT_ONCE), int(suspect_too), queue.held_prefix),
            *(self._max_job_bytes, min(max_bytes, MOST_BYTES_AT_ONCE), self._first_rank),
        ]
        reply = await self._claim(
            keys=[queue.queue, queue.owners, queue.held(owner), queue.lapses, queue.suspects, keys.ABORTS], args=args
        )
        ids, dues, payloads, tries, lapses, aborts, returned, unusable, self._first_rank = reply
        for key in unusable:
            self._unusable.skipped(_decode_id(key), queue=queue.queue)
        none = [None] * len(ids)
        columns = zip(ids, dues, payloads, tries or none, lapses or none, aborts or none, strict=True)
        return _jobs(owner, columns), returned

    @property
    def is_midway(self) -> bool:
        """Whether the last claim stopped before it had looked at all due jobs and found fewer than it asked for."""
        return self._first_rank > 0

    async def finish(self, owner: str, finishes: Sequence[tuple[Job, Ending]]) -> list[bool]:
        """Acknowledge up to `MOST_AT_ONCE` jobs; return for each whether the owner still held it. Safe to repeat."""
        queue = self._keys
        reply: bytes = await self._finish(
            keys=[queue.queue, queue.owners, queue.held(owner), queue.lapses, keys.ABORTS],
            args=[owner, *(part for job, ending in finishes for part in _finish_args(job, ending))],
        )
        return [answer == ord("1") for answer in reply]

    async def aborted(self, job_ids: Sequence[str]) -> list[str]:
        """Return which of these jobs are to be aborted, and remove their marks in Redis."""
        found: list[str] = []
        for start in range(0, len(job_ids), _MOST_ABORTS):
            some = job_ids[start : start + _MOST_ABORTS]
            args = [now_ms() + abort_job_max_age, *map(_encode_id, some)]
            numbers: list[int] = await self._aborts(keys=[keys.ABORTS], args=args)
            found += [some[number - 1] for number in numbers]
        return found

    async def strays(self, owner: str, known: set[str]) -> list[str]:
        """Return the jobs that *owner* holds in Redis and that are not *known*: the reply to their claim was lost.

        Returns at most 1,000 jobs that are not among the *known* ones, because other programs may have added millions.
        """
        try:
            held: list[bytes] = await self._redis.zrange(self._keys.held(owner), 0, len(known) + _MOST_STRAYS - 1)
        except Exception as error:
            if not is_wrong_type(error):
                raise
            return []  # nobody holds anything there
        return [job_id for job_id in map(_decode_id, held) if job_id not in known]


async def release_owners(redis: Redis, queue_name: str, prefix: str) -> int:
    """End the leases of dead processes: those whose owner names begin with *prefix*.

    The next claim of any worker puts their jobs back. Returns how many owners there were, of the first thousand.
    """
    queue = QueueKeys(queue_name)
    dead = [owner for owner in await _owners(redis, queue) if owner.startswith(prefix.encode())]
    if dead:
        await redis.zadd(queue.owners, dict.fromkeys(dead, 0), xx=True)
    return len(dead)


async def backlog(redis: Redis, queue_name: str, at_ms: int) -> Backlog | None:
    """Count the jobs of a queue, in three round trips and one more for every 16 workers; return None if Redis fails."""
    try:
        return await _backlog(redis, QueueKeys(queue_name), at_ms)
    except REDIS_ERRORS:
        return None


async def _backlog(redis: Redis, queue: QueueKeys, at_ms: int) -> Backlog:
    reading = redis.pipeline(transaction=False)
    reading.zcard(queue.queue)
    reading.zrangebyscore(queue.queue, "-inf", at_ms, start=0, num=1, withscores=True)
    jobs, oldest = await _skip_wrong_types(reading)
    owners = await _owners(redis, queue)
    holding = redis.pipeline(transaction=False)
    for owner in owners:
        holding.zcard(_encode_id(queue.held(_decode_id(owner))))
    held = [count or 0 for count in (await _skip_wrong_types(holding) if owners else ())]
    jobs, age_s = jobs or 0, (at_ms - _due_ms(oldest[0][1])) / 1000 if oldest else None
    return Backlog(waiting=max(0, jobs - sum(held)), running=sum(held), oldest_s=age_s)


def _jobs(owner: str, columns: Iterable[_Column]) -> list[Job]:
    """Return a claim's reply as jobs that *owner* holds from this moment on."""
    started_ms, started_ns = now_ms(), time.perf_counter_ns()
    jobs: list[Job] = []
    for raw_id, score, payload, tries, lapses, mark in columns:
        queue_id, failed = _decode_id(raw_id), _count(tries)
        jobs.append(
            Job(
                *(ledger_id(queue_id), queue_id, owner, payload, _due_ms(score), failed + 1, failed > 0),
                *(_count(lapses), mark is not None, started_ms, started_ns),
            )
        )
    return jobs


def _finish_args(job: Job, ending: Ending) -> tuple[bytes | str | int, ...]:
    """Return what `finish.lua` reads of one job: id, how, value, ms, keep, tried."""
    job_id = _encode_id(job.queue_id)
    if isinstance(ending, Done):
        return job_id, "done", ending.result, ending.keep_ms, ending.mark_ms, int(job.is_retry)
    if isinstance(ending, Again):
        value = f"{ending.attempt} {ending.cause}".encode("utf-8", "backslashreplace")
        return job_id, "again", value, ending.delay_ms, 0, 0
    return job_id, "release", b"", ending.delay_ms, 0, 0


async def _owners(redis: Redis, queue: QueueKeys) -> list[bytes]:
    """Return up to a thousand owners that hold jobs; skip names that are too long for a worker's."""
    found: list[bytes] = []
    size_bytes = 0
    for first in range(0, _MOST_OWNERS, _OWNERS_AT_ONCE):
        reading = redis.pipeline(transaction=False)
        reading.zrange(queue.owners, first, first + _OWNERS_AT_ONCE - 1)
        (page,) = await _skip_wrong_types(reading)
        found += [owner for owner in page or () if len(owner) <= _MAX_NAME_BYTES]
        size_bytes += sum(map(len, page or ()))
        if len(page or ()) < _OWNERS_AT_ONCE or size_bytes > _MAX_NAMES_BYTES:
            break
    return found


async def _skip_wrong_types(reading: Pipeline) -> list[Any]:
    """Execute a pipeline; return its replies, with None in place of errors about keys of a wrong type."""
    replies = await reading.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception) and not is_wrong_type(reply):
            raise reply
    return [None if isinstance(reply, Exception) else reply for reply in replies]


def _due_ms(score: bytes | float) -> int:
    """Return a score as a due time in Unix ms, limited to the range of dates: other programs can write any score."""
    return int(min(max(0.0, float(score)), _LATEST_MS))


def _count(value: bytes | None) -> int:
    """Return a count as it is stored in Redis. A value that is not a number of up to six digits counts as 1."""
    if value is None:
        return 0
    return int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else 1


def _encode_id(job_id: str) -> bytes:
    return job_id.encode("utf-8", "surrogateescape")


def _decode_id(job_id: bytes) -> str:
    """Return a job id or an owner's name as text; bytes that are not UTF-8 survive `_encode_id` of it."""
    return job_id.decode("utf-8", "surrogateescape")
