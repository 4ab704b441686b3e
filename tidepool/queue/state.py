"""Reads the state of a job queue in Redis: how many jobs wait, and the status and the results of jobs."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, cast

from arq.jobs import Job
from redis.asyncio.client import Pipeline

from tidepool.jobs.submission import Submission
from tidepool.queue import scripts, wire
from tidepool.queue.connection import RedisClient
from tidepool.queue.faults import REDIS_ERRORS, RedisFault
from tidepool.queue.scripts import MOST_BYTES_AT_ONCE
from tidepool.queue.wire import LATEST_MS, QueueKeys, now_ms

_POLL_S = 0.02
"""Seconds between two polls for one result."""
_MOST_OWNERS = 1000
"""Max owners that one call reads: other programs may have added millions."""
_OWNERS_AT_ONCE = 16
"""Owners that are read in one round trip; few, because other programs may have written names of megabytes."""
_JOBS_AT_ONCE = 100
"""Jobs that are read in one round trip, each by six commands."""
_MOST_DIGITS, _MOST_ERROR = 6, 500
"""Max digits of a count of attempts, and max bytes of an error, that are read."""
_MAX_NAME_BYTES, _MAX_NAMES_BYTES = 1000, 8_388_608
"""Max bytes of one owner's name, and of all names that one call reads. Longer ones were written by other programs."""


class Backlog(NamedTuple):
    """How many jobs of a queue wait and how many run, and for how long the oldest due job has waited."""

    waiting: int
    """Number of jobs that no worker has claimed, whether they are due now or later."""
    running: int
    oldest_s: float | None
    """Seconds since the oldest due job became due; None if no job is due."""


class HeldJobs(NamedTuple):
    """The jobs that one worker process holds: they run, or are about to."""

    worker_id: str
    running: int
    """The number of these jobs."""
    job_ids: list[str]
    """The ids of the first of them."""


class JobState(NamedTuple):
    """Where a job stands; see `JobClient.job_states`. Times are in UTC."""

    job_id: str
    state: Literal["queued", "running", "retrying", "applied", "rejected", "failed", "finished", "unknown"]
    attempts: int | None = None
    """Number of attempts: of an ended job, all of them; of a job in the queue, those that have failed."""
    due_at: datetime | None = None
    """When a queued or retrying job may run."""
    worker_id: str | None = None
    """The process that runs the job; None if that is one of stock arq."""
    lease_ends_at: datetime | None = None
    """When other workers may take the running job, unless its worker, which is alive then, has renewed the lease."""
    ended_at: datetime | None = None
    reason: str | None = None
    """Why the job was rejected."""
    error: str | None = None
    """The error of a job that has failed, or of the last failed attempt."""

    @property
    def is_alive(self) -> bool:
        """Whether the job has yet to end: it is queued, running or retrying."""
        return self.state in ("queued", "running", "retrying")


class QueueState:
    """Reads the state of a queue in Redis: how many jobs it has, and the status and results of jobs.

    The queue is the client's default queue. Redis keeps results for a limited time. `release_owners` also puts the jobs
    of dead workers back into the queue.
    """

    MAX_RESULTS = 500
    """Max jobs in one call of `results`: more would block Redis for longer than a millisecond or two."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._keys = QueueKeys(redis.default_queue_name)
        self._results = scripts.load(redis, "results")

    async def status(self, job_id: str) -> str:
        """Return a job's status in Redis: deferred, queued, in_progress, complete or not_found."""
        return (await self._job(job_id).status()).value

    async def wait(self, job_id: str, timeout_s: float | None) -> dict[str, object]:
        """Wait until the job has a result in Redis, and return the result.

        Raises `TimeoutError` after *timeout_s* seconds, the error of a failed job, and `arq.jobs.ResultNotFound` if
        Redis knows neither the job nor a result of it.
        """
        return await self._job(job_id).result(timeout_s, poll_delay=_POLL_S)

    async def results(self, job_ids: list[str]) -> list[tuple[str, bytes]]:
        """Return the id and the encoded result of each of the jobs *job_ids* that has a result in Redis.

        Takes one round trip for up to `MAX_RESULTS` ids. The results have up to 4 MiB together; further ones are left
        out. Raises the errors of Redis's client.
        """
        found = await self._results(
            keys=[wire.RESULT + job_id for job_id in job_ids], args=[wire.MAX_PAYLOAD_BYTES, MOST_BYTES_AT_ONCE]
        )
        numbers: list[int] = found[::2]
        results: list[bytes] = found[1::2]
        return [(job_ids[number - 1], result) for number, result in zip(numbers, results, strict=True)]

    async def jobs(self, job_ids: Sequence[str]) -> list[JobState]:
        """Return where each of the jobs *job_ids* stands in Redis: in the queue, or finished, or unknown.

        A job that is not in the queue counts as finished if it has a result. Takes two round trips for each hundred
        jobs. Raises Redis's errors.
        """
        found: list[JobState] = []
        for first in range(0, len(job_ids), _JOBS_AT_ONCE):
            found += await self._jobs(job_ids[first : first + _JOBS_AT_ONCE])
        return found

    async def queued(self, limit: int) -> list[Submission]:
        """Return the first *limit* jobs of the queue, those due first, whether they wait or run.

        Jobs whose content is missing, or cannot be decoded, are left out. Positional arguments are left out, too.
        """
        job_ids: list[bytes] = await self._redis.zrange(self._keys.queue, 0, limit - 1)
        if not job_ids:
            return []
        payloads: list[bytes | None] = await self._redis.mget([wire.JOB.encode() + job_id for job_id in job_ids])
        found: list[Submission] = []
        for job_id, payload in zip(job_ids, payloads, strict=True):
            with suppress(ValueError, KeyError):
                job = wire.receive(payload or b"")
                found.append(
                    Submission(QueueKeys.decode_id(job_id), str(job["f"]), cast("dict[str, object]", job["k"]))
                )
        return found

    async def backlog(self, at_ms: int) -> Backlog | None:
        """Count the jobs that wait in the queue and those that workers hold; return None if Redis fails.

        *at_ms* is the current time (Unix ms), from which the wait of the oldest due job is measured. The number of
        round trips to Redis is three, and one more for every 16 workers.
        """
        try:
            return await self._backlog(at_ms)
        except REDIS_ERRORS:
            return None

    async def held(self, limit: int) -> list[HeldJobs]:
        """Return the processes that hold jobs, with the ids of up to *limit* jobs of each. Raises Redis's errors."""
        owners = await self._owners()
        reading = self._redis.pipeline(transaction=False)
        for owner in owners:
            reading.zcard(self._keys.held_prefix.encode() + owner)
            reading.zrange(self._keys.held_prefix.encode() + owner, 0, limit - 1)
        replies = await _skip_wrong_types(reading) if owners else []
        found: dict[str, HeldJobs] = {}
        for owner, count, job_ids in zip(owners, replies[::2], replies[1::2], strict=True):
            worker_id = QueueKeys.decode_id(owner).rpartition(".")[0] or QueueKeys.decode_id(owner)
            had = found.get(worker_id, HeldJobs(worker_id, 0, []))  # a process may have jobs of two owners
            ids = [*had.job_ids, *map(QueueKeys.decode_id, job_ids or ())]
            found[worker_id] = HeldJobs(worker_id, had.running + (count or 0), ids[:limit])
        return [*found.values()]

    async def release_owners(self, prefix: str) -> int:
        """End the leases of dead worker processes, those whose names begin with *prefix*; return their number.

        A lease is the time for which a process holds jobs. The next claim of any worker puts these jobs back into the
        queue. Only the first thousand names (owners) are looked at.
        """
        dead = [owner for owner in await self._owners() if owner.startswith(prefix.encode())]
        if dead:
            await self._redis.zadd(self._keys.owners, dict.fromkeys(dead, 0), xx=True)
        return len(dead)

    async def _jobs(self, job_ids: Sequence[str]) -> list[JobState]:
        reading = self._redis.pipeline(transaction=False)
        for job_id in job_ids:
            reading.getrange(wire.IN_PROGRESS + job_id, 0, _MAX_NAME_BYTES)
            reading.pttl(wire.IN_PROGRESS + job_id)
            reading.getrange(wire.RETRY + job_id, 0, _MOST_DIGITS)
            reading.getrange(wire.CAUSE + job_id, 0, _MOST_ERROR)
            reading.zscore(self._keys.queue, job_id)
            reading.exists(wire.RESULT + job_id)
        replies = iter(await _skip_wrong_types(reading))
        jobs = [(job_id, *values) for job_id, *values in zip(job_ids, *[replies] * 6, strict=True)]
        leases = await self._leases({holder for _, holder, *_ in jobs if holder})
        return [_state_of(job_id, leases, *values) for job_id, *values in jobs]

    async def _leases(self, owners: set[bytes]) -> dict[bytes, float]:
        """Return when the leases of those of *owners* end that have one, in Unix milliseconds."""
        names = [*owners]
        ends = await self._redis.zmscore(self._keys.owners, names) if names else []  # type: ignore[arg-type]
        return {name: end for name, end in zip(names, ends, strict=True) if end is not None}

    def _job(self, job_id: str) -> Job:
        return Job(job_id, self._redis, self._redis.default_queue_name, wire.deserialize)

    async def _backlog(self, at_ms: int) -> Backlog:
        reading = self._redis.pipeline(transaction=False)
        reading.zcard(self._keys.queue)
        reading.zrangebyscore(self._keys.queue, "-inf", at_ms, start=0, num=1, withscores=True)
        jobs, oldest = await _skip_wrong_types(reading)
        owners = await self._owners()
        holding = self._redis.pipeline(transaction=False)
        for owner in owners:
            holding.zcard(self._keys.held_prefix.encode() + owner)
        held = [count or 0 for count in (await _skip_wrong_types(holding) if owners else ())]
        jobs, age_s = jobs or 0, (at_ms - int(max(0.0, oldest[0][1]))) / 1000 if oldest else None
        return Backlog(waiting=max(0, jobs - sum(held)), running=sum(held), oldest_s=age_s)

    async def _owners(self) -> list[bytes]:
        """Return the names of up to a thousand owners that hold jobs; skip names too long to be a worker's."""
        found: list[bytes] = []
        size_bytes = 0
        for first in range(0, _MOST_OWNERS, _OWNERS_AT_ONCE):
            reading = self._redis.pipeline(transaction=False)
            reading.zrange(self._keys.owners, first, first + _OWNERS_AT_ONCE - 1)
            (page,) = await _skip_wrong_types(reading)
            found += [owner for owner in page or () if len(owner) <= _MAX_NAME_BYTES]
            size_bytes += sum(map(len, page or ()))
            if len(page or ()) < _OWNERS_AT_ONCE or size_bytes > _MAX_NAMES_BYTES:
                break
        return found


def _state_of(
    job_id: str,
    leases: dict[bytes, float],
    holder: bytes | None,
    mark_ms: int,
    tries: bytes | None,
    cause: bytes | None,
    due_ms: float | None,
    has_result: int | None,
) -> JobState:
    """Return where a job stands by the values of its keys; *leases* has the ends of its holder's lease."""
    if due_ms is None:
        return JobState(job_id, "finished" if has_result else "unknown")
    attempts = int(tries) if tries and tries.isdigit() and len(tries) <= _MOST_DIGITS else 0
    error = cause.decode("utf-8", "replace") if cause else None
    if not holder:
        state = "retrying" if attempts else "queued"
        return JobState(job_id, state, attempts, due_at=_time_of(due_ms), error=error)
    if holder not in leases:  # of stock arq, whose marks have an end and no name
        ends = None if mark_ms < 0 else _time_of(now_ms() + mark_ms)
        return JobState(job_id, "running", attempts, lease_ends_at=ends, error=error)
    owner = QueueKeys.decode_id(holder)
    return JobState(
        job_id,
        "running",
        attempts,
        worker_id=owner.rpartition(".")[0] or owner,
        lease_ends_at=_time_of(leases[holder]),
        error=error,
    )


def _time_of(ms: float) -> datetime:
    """Return a time in Unix ms, limited to the range of dates: other programs can write any."""
    return datetime.fromtimestamp(min(max(0.0, ms), LATEST_MS) / 1000, UTC)


async def _skip_wrong_types(reading: Pipeline) -> list[Any]:
    """Execute a pipeline; return its replies, with None in place of errors about keys of a wrong type."""
    replies = await reading.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception) and RedisFault.of(reply) is not RedisFault.WRONG_TYPE:
            raise reply
    return [None if isinstance(reply, Exception) else reply for reply in replies]
