"""Claims jobs under a lease and acknowledges them, hundreds in one round trip to Redis.

An *owner* is the name under which a worker process holds jobs; after a lost lease it takes a new name. All jobs of an
owner are held under one lease, which one command renews. `wire.QueueKeys` lists the keys besides arq's own.

An owner holds a job if its `held` set contains the job, which is checked before each acknowledgement. When an owner's
lease has ended, the next claim of any worker moves its jobs back to their old places in the queue. From then on the
lost owner can neither acknowledge nor overwrite anything, however late it wakes up.

Other programs can write these keys, too. A key of a wrong type is skipped; if it is one of Tidepool's, the next claim
deletes it and logs its name. If the queue itself has a wrong type, each claim raises an error until it is corrected.

For stock arq, a claimed job is in progress (its `arq:in-progress:` key) and not due (its score is raised), so both
kinds of workers can share a queue. These two marks last for two leases. They are renewed for jobs that are held for
longer than half a lease, which most are not. If no Tidepool worker is left to put a lost owner's jobs back, they are
due again when their marks end.

`Leases` calls the scripts, for any owner; `holding` tracks the jobs that this process holds.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import structlog
from arq.constants import abort_job_max_age
from redis.asyncio import Redis

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import RetryLater
from tidepool.logs import printable
from tidepool.queue import scripts, wire
from tidepool.queue.faults import Oddities, RedisFault
from tidepool.queue.finisher import Done, Ending, SetAside
from tidepool.queue.scripts import MOST_AT_ONCE, MOST_BYTES_AT_ONCE
from tidepool.queue.wire import LATEST_MS, MAX_PAYLOAD_BYTES, QueueKeys, now_ms

log = structlog.get_logger(__name__)

MOST_LAPSES = 3
"""Owners that may lose their lease while they hold a job (lapses) before the job is failed instead of run."""
_MOST_DIGITS = 6
"""Max digits of a count in Redis."""
_MOST_ABORTS = 1000
"""Max jobs in one query for requests to abort."""
_MOST_STRAYS = 1000
"""Max jobs that one call of `Leases.strays` finds: four times as many as one claim takes."""
_ANNOUNCED_MS = 600_000
"""Milliseconds for which an announcement counts: longer than a deployment, or a job that blocks the event loop."""
_BACK_MS = 1000
"""Milliseconds until a job is due again that was to become a dead letter, but that a live worker may understand."""
_MAX_SHOWN = 200
"""Max characters of a job's id in a log line."""


_Column: TypeAlias = tuple[bytes, bytes, bytes | int | None, bytes | None, bytes | None, bytes | None]
"""The values of one job in the reply to a claim: id, due time, payload, failed attempts, lapses, abort request."""


@dataclass(frozen=True, slots=True)
class Recall:
    """A job that was put back with a delay, and may be made due before the delay is over."""

    job_id: str
    due_ms: int
    """The due time that it then gets (Unix milliseconds), which is its place in the queue."""
    delay_ms: int
    """The delay with which it was put back, in milliseconds."""
    attempt: int = 1
    """Number of the attempt that it was put back before. After that attempt, its delay is that of a retry."""


class Leases:
    """Claims jobs of one queue in Redis (reserves them for a worker process), and acknowledges jobs that have ended.

    A claim gives the worker a lease on the jobs, of *lease_ms* milliseconds: until it ends, no other worker runs them.
    The content of a job that is larger than *max_job_bytes* is not read.
    """

    def __init__(self, redis: Redis, queue_name: str, *, lease_ms: int, max_job_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._redis = redis
        self._keys = QueueKeys(queue_name)
        self._unusable = Oddities("redis.key_unusable")
        self._max_job_bytes = max_job_bytes
        self._first_rank = self._is_behind = 0
        self.lease_ms = lease_ms
        self._claim = scripts.load(redis, "claim")
        self._finish = scripts.load(redis, "finish")
        self._aborts = scripts.load(redis, "aborts")
        self._announce = scripts.load(redis, "announce")
        self._recall = scripts.load(redis, "recall")

    async def claim(
        self,
        owner: str,
        limit: int,
        *,
        suspect_too: bool,
        max_bytes: int = MOST_BYTES_AT_ONCE,
        skipped: Iterable[bytes] = (),
    ) -> tuple[list[Job], int]:
        """Reserve up to *limit* due jobs for *owner*, with max *max_bytes* of content together, or one larger job.

        An owner is the name under which a worker process holds jobs. Returns the jobs, and how many jobs of owners that
        lost their lease were put back into the queue. *suspect_too* is whether one of the jobs may be a suspect, a job
        that two owners held when they lost their leases. The jobs with the ids *skipped* are left to other workers. A
        call whose reply is lost may have claimed jobs: `strays` finds them. Raises `ResponseError` with WRONGTYPE if
        the queue is not a sorted set.

        A call skips only some thousand jobs that are marked as held by others, and puts back some hundred jobs of lost
        owners. If there are more, `is_midway` is true afterwards, and the next call continues from there; while lost
        owners hold jobs, none is reserved.
        """
        queue = self._keys
        args = [
            *(owner, self.lease_ms, min(limit, MOST_AT_ONCE), int(suspect_too), queue.held_prefix),
            *(self._max_job_bytes, min(max_bytes, MOST_BYTES_AT_ONCE), self._first_rank, *skipped),
        ]
        reply = await self._claim(
            keys=[queue.queue, queue.owners, queue.held(owner), queue.lapses, queue.suspects, wire.ABORTS], args=args
        )
        ids, dues, payloads, tries, lapses, aborts, returned, unusable, self._first_rank, self._is_behind = reply
        for key in unusable:
            self._unusable.skipped(QueueKeys.decode_id(key), queue=queue.queue)
        none = [None] * len(ids)
        columns = zip(ids, dues, payloads, tries or none, lapses or none, aborts or none, strict=True)
        return _jobs(owner, columns), returned

    @property
    def is_midway(self) -> bool:
        """Whether the last claim stopped before it had looked at all due jobs, so that another claim may find more."""
        return self._first_rank > 0 or self._is_behind > 0

    async def finish(self, owner: str, finishes: Sequence[tuple[Job, Ending]]) -> list[bool]:
        """Acknowledge up to `MOST_AT_ONCE` jobs that have ended; return for each whether *owner* still held it.

        An owner is the name under which a worker process holds jobs. A job that it no longer holds is not changed. Safe
        to repeat.
        """
        queue = self._keys
        args: list[bytes | str | int] = [owner, queue.dead_letter_prefix]
        for job, ending in finishes:
            args += _finish_args(job, ending)
        reply: bytes = await self._finish(
            keys=[
                *(queue.queue, queue.owners, queue.held(owner), queue.lapses, wire.ABORTS),
                *(queue.dead_letters, queue.functions, queue.deserializers),
            ],
            args=args,
        )
        for (job, ending), answer in zip(finishes, reply, strict=True):
            if answer == ord("2") and isinstance(ending, SetAside):
                log.warning("job.dead_letter", job_id=printable(job.queue_id, _MAX_SHOWN), reason=ending.reason)
        return [answer != ord("0") for answer in reply]

    async def announce(self, functions: Iterable[str], deserializer: str) -> None:
        """Record for ten minutes that a worker of this queue has these *functions*, and decodes jobs by *deserializer*.

        Jobs that such a worker may understand do not become dead letters. All are names.
        """
        args = [_ANNOUNCED_MS, deserializer, *(name.encode("utf-8", "backslashreplace") for name in functions)]
        await self._announce(keys=[self._keys.functions, self._keys.deserializers], args=args)

    async def aborted(self, job_ids: Sequence[str]) -> list[str]:
        """Return those of *job_ids* that a client asked to abort, and delete the requests of the client from Redis."""
        found: list[str] = []
        for start in range(0, len(job_ids), _MOST_ABORTS):
            some = job_ids[start : start + _MOST_ABORTS]
            args = [now_ms() + abort_job_max_age, *map(QueueKeys.encode_id, some)]
            numbers: list[int] = await self._aborts(keys=[wire.ABORTS], args=args)
            found += [some[number - 1] for number in numbers]
        return found

    async def gone(self, job_ids: Sequence[bytes]) -> list[bytes]:
        """Return those of *job_ids* that are not in the queue."""
        members: list[Any] = list(job_ids)
        scores: list[float | None] = await self._redis.zmscore(self._keys.queue, members)
        return [job_id for job_id, score in zip(job_ids, scores, strict=True) if score is None]

    async def recall(self, recalls: Sequence[Recall]) -> int:
        """Make jobs due that were put back with a delay; return how many are due.

        A job that has left the queue meanwhile, or that a worker holds, is not changed.
        """
        due = 0
        for start in range(0, len(recalls), MOST_AT_ONCE):
            some = recalls[start : start + MOST_AT_ONCE]
            args = [
                part
                for one in some
                for part in (QueueKeys.encode_id(one.job_id), one.due_ms, one.delay_ms, one.attempt)
            ]
            due += await self._recall(keys=[self._keys.queue], args=args)
        return due

    async def strays(self, owner: str, known: set[str]) -> list[str]:
        """Return the ids of stray jobs: *owner* holds them in Redis, but they are not *known* to its process.

        The reply to the claim of such jobs was lost. Returns max 1,000 ids for each call, because other programs may
        have added millions.
        """
        try:
            held: list[bytes] = await self._redis.zrange(self._keys.held(owner), 0, len(known) + _MOST_STRAYS - 1)
        except Exception as error:
            if RedisFault.of(error) is not RedisFault.WRONG_TYPE:
                raise
            return []  # nobody holds anything there
        return [job_id for job_id in map(QueueKeys.decode_id, held) if job_id not in known]


def _jobs(owner: str, columns: Iterable[_Column]) -> list[Job]:
    """Return the jobs in the reply to a claim of *owner*, with the current time as the start of their attempt."""
    started_ms, started_ns = now_ms(), time.perf_counter_ns()
    jobs: list[Job] = []
    for raw_id, score, payload, tries, lapses, mark in columns:
        queue_id, failed = QueueKeys.decode_id(raw_id), _count(tries)
        jobs.append(
            Job(
                *(queue_id, owner, payload, _due_ms(score), failed + 1, failed > 0),
                *(_count(lapses), mark is not None, started_ms, started_ns),
            )
        )
    return jobs


def _finish_args(job: Job, ending: Ending) -> tuple[bytes | str | int, ...]:
    """Return the arguments of `finish.lua` for one job: id, how, value, ms, keep, tried."""
    job_id = QueueKeys.encode_id(job.queue_id)
    if isinstance(ending, Done):
        return job_id, "done", ending.result, ending.keep_ms, ending.mark_ms, int(job.is_retry)
    if isinstance(ending, SetAside):
        value = f"{ending.lacks} {ending.reason}\n{ending.function}".encode("utf-8", "backslashreplace")
        return job_id, "dead", value, _BACK_MS, 0, int(job.is_retry)
    if isinstance(ending, RetryLater):
        value = f"{job.attempt} {ending.cause}".encode("utf-8", "backslashreplace")
        return job_id, "again", value, round(ending.delay_s * 1000), 0, 0
    return job_id, "recallable" if ending.may_be_recalled else "release", b"", ending.delay_ms, 0, 0


def _due_ms(score: bytes | float) -> int:
    """Return a score as a due time in Unix ms, limited to the range of dates: other programs can write any score."""
    return int(min(max(0.0, float(score)), LATEST_MS))


def _count(value: bytes | None) -> int:
    """Return a count as it is stored in Redis. A value that is not a number of up to six digits counts as 1."""
    if value is None:
        return 0
    return int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else 1
