"""The client of the job queue: enqueues jobs, enqueues failed jobs again, reads status and results, and aborts jobs.

    async with open_client(settings) as client:
        await client.enqueue("create_user", {"username": "ada", "email": "ada@example.org", "full_name": "Ada L."})

The caller may choose a job's id. As in arq, an id is not enqueued while the queue has a job, or Redis a result, of that
id; after that it is a new job. If the id is the job's *identity*, by its type or by the caller's wish, it is one job
for as long as the ledger keeps its row, and has one effect, however often it is enqueued. So a call that was cut short,
by whatever cause, can safely be repeated.
"""

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar, Unpack

import structlog

from tidepool import servers
from tidepool.fleet.identity import Identity
from tidepool.jobs.job import IDENTITY_MS, check_id
from tidepool.jobs.submission import Submission
from tidepool.pool.connection import Row
from tidepool.pool.faults import Unavailable
from tidepool.pool.pool import Pool
from tidepool.queue import scripts, wire
from tidepool.queue.connection import RedisClient
from tidepool.queue.dead_letters import DeadLetters
from tidepool.queue.faults import RedisFault, RedisUnavailable
from tidepool.queue.scripts import MOST_BYTES_AT_ONCE
from tidepool.queue.state import JobState, QueueState
from tidepool.queue.wire import MAX_PAYLOAD_BYTES, now_ms
from tidepool.repeating import RetryPolicy
from tidepool.settings import Settings
from tidepool.storage.results import Finished, ResultRepository, Selection

log = structlog.get_logger(__name__)

MOST_AT_ONCE = 500
"""Max jobs in one call of `enqueue_many`: more would block Redis for longer than a millisecond or two."""
PATIENCE_S = 30.0
"""Default seconds for which enqueueing is retried while Redis is unavailable."""
_MOST_DIGITS, _MOST_NAME, _MOST_ERROR = 6, 100, 500
_RECEIPT_MS = 10 * 60 * 1000

T = TypeVar("T")


class _Retrying(NamedTuple):
    """A job whose attempts so far have failed and that will be retried."""

    function: str | None
    """Name of the job's function; None if the job's content in Redis cannot be read."""
    attempts: int
    """Number of failed attempts so far."""
    last_error: str | None
    due_at: datetime | None
    """The job's due time in the queue, in UTC; None if it is not in the queue."""


class _Encoded(NamedTuple):
    """A job as it is sent to Redis."""

    id: str
    payload: bytes
    due_ms: int | None

    def as_arguments(self) -> tuple[str | bytes | int, ...]:
        """Return the arguments of `enqueue.lua` for this job."""
        return self.id, self.payload, "" if self.due_ms is None else self.due_ms


class JobClient:
    """Client of one queue: enqueues jobs, reads their status and results, and aborts them.

    *ledger* is an optional pool of connections to the database with the ledger, the table of outcomes. With it, jobs
    that are submitted with `identity=True` and have an outcome are not enqueued again: Redis forgets results after
    KEEP_RESULT seconds, the ledger only after RESULT_KEEP_DAYS. While a server is unavailable, enqueueing and
    `finished` are retried for *patience_s* seconds.
    """

    def __init__(self, redis: RedisClient, *, ledger: Pool | None = None, patience_s: float = PATIENCE_S) -> None:
        self._redis = redis
        self._ledger = ledger
        self._patience_s = patience_s
        self._enqueue = scripts.load(redis, "enqueue")
        self.state = QueueState(redis)
        """The state of the queue in Redis: how many jobs wait, and which workers hold how many."""
        self.dead_letters = DeadLetters(redis, redis.default_queue_name)
        """The jobs that no worker understood: lists them, puts them back into the queue, deletes them."""

    async def enqueue(
        self, function: str, fields: Mapping[str, object], *, job_id: str | None = None, identity: bool | None = None
    ) -> str:
        """Enqueue one job and return its id. If a job with this id is known already, nothing is changed.

        *identity* is whether the id is the job's identity, as in `Submission`; None: its type decides. Raises
        `ValueError` for an invalid id, and the errors of `enqueue_many`.
        """
        job_id = job_id or uuid.uuid4().hex
        check_id(job_id)
        await self.enqueue_many([Submission(job_id, function, dict(fields), identity)])
        return job_id

    async def enqueue_many(self, submissions: Sequence[Submission], *, again: bool = False) -> list[bool]:
        """Enqueue up to `MOST_AT_ONCE` jobs, in one round trip for each 4 MiB of them.

        Returns for each job whether it was enqueued: False if its id is known already, either as a job in the queue or
        as a job with a result in Redis, or, if the id is its identity, as a job with an outcome in the ledger. With
        *again*, jobs that have a result or an outcome are enqueued all the same. A result in Redis does not prove that
        the job ran; only the outcome in the ledger does.

        If the connection is lost, the call is repeated, which enqueues nothing twice. Raises `RedisUnavailable` or
        `Unavailable` if Redis or PostgreSQL is unavailable for longer than *patience_s*. Raises `ValueError`, and
        enqueues nothing, for too many jobs or a job of more than `MAX_PAYLOAD_BYTES`.
        """
        if len(submissions) > MOST_AT_ONCE:
            raise ValueError(f"{len(submissions)} jobs at once; the maximum is {MOST_AT_ONCE}")
        known = await self._settled(submissions) if self._ledger and not again else frozenset[str]()
        fresh = [one for one in submissions if not (one.identity and one.id in known)]
        if not fresh:
            return [False] * len(submissions)
        now = now_ms()
        encoded = [_Encoded(one.id, _payload(one, now, again=again), one.due_ms) for one in fresh]
        answers = iter([answer for part in _parts(encoded) for answer in await self._send(part, again=again)])
        return [not (one.identity and one.id in known) and next(answers) for one in submissions]

    async def finished(self, job_ids: Sequence[str]) -> list[Finished]:
        """Return the outcomes of those of the jobs *job_ids* that have one in the ledger; other jobs are left out.

        If an id was used several times, that is the outcome of the job that was enqueued last. Needs a client with a
        ledger. Raises `Unavailable` if PostgreSQL is unavailable for longer than *patience_s*.
        """
        return await self._ask_ledger(lambda results: results.finished(job_ids))

    async def requeue(self, *, search: str | None = None, **selection: Unpack[Selection]) -> list[str]:
        """Enqueue failed and rejected jobs again, those that match *search* and *selection*; return their ids in order.

        Needs a client with a ledger (the table of outcomes), from which the outcomes of these jobs are withdrawn.
        Applied jobs, and jobs whose arguments the ledger did not keep, are left out; of an id that was used several
        times, all but the last job are, too. A requeued job keeps its key in the ledger, so it stays the same job.
        Works in chunks of up to `MOST_AT_ONCE` jobs; a call that was interrupted can be repeated.
        """
        ledger = self._required_ledger()
        requeued: list[str] = []
        while True:
            async with ledger.transaction() as connection:
                jobs = await ResultRepository(connection).mark_requeued(
                    after_id=requeued[-1] if requeued else "", limit=MOST_AT_ONCE, search=search, **selection
                )
            if not jobs:
                return requeued
            await self.enqueue_many([Submission(*job) for job in jobs], again=True)
            requeued += [job.job_id for job in jobs]

    async def status(self, job_id: str) -> str:
        """Return a job's status in Redis: deferred, queued, in_progress, complete or not_found."""
        return await self.state.status(job_id)

    async def retrying(self, job_id: str) -> _Retrying | None:
        """Return what Redis knows of the failed attempts of a job that will be tried again; None if no attempt failed.

        A field of the returned object is None if its value in Redis cannot be read: any program may have written the
        value.
        """
        reading = self._redis.pipeline(transaction=False)
        for prefix, most in ((wire.RETRY, _MOST_DIGITS), (wire.CAUSE, _MOST_ERROR), (wire.JOB, MAX_PAYLOAD_BYTES)):
            reading.getrange(prefix + job_id, 0, most)  # of a huge value no more than shows that it is too large
        reading.zscore(self._redis.default_queue_name, job_id)
        tries, cause, payload, score = await reading.execute(raise_on_error=False)
        if not isinstance(tries, bytes) or not tries.isdigit() or len(tries) > _MOST_DIGITS:
            return None
        last_error = cause.decode("utf-8", "replace")[:_MOST_ERROR] if isinstance(cause, bytes) else None
        return _Retrying(_function_of(payload), int(tries), last_error, _time_of(score))

    async def job_states(self, job_ids: Sequence[str]) -> list[JobState]:
        """Return where each of these jobs stands: in the queue, running, to be retried, or ended with an outcome.

        That is what a sweeper needs: a job whose state is `unknown` is nowhere, neither in the queue nor, with a
        ledger, in the outbox or among the outcomes that the ledger keeps. `finished` is a job with a result in Redis
        and no outcome in the ledger, such as that of a plain function whose row is not written yet. If an id was used
        several times, the state is that of the newest job: compare *ended_at* with when you enqueued it. A dead letter
        is unknown. Raises Redis's errors, and `Unavailable` if PostgreSQL is unavailable for longer than *patience_s*.
        """
        found = await self.state.jobs(job_ids)
        absent = [job.job_id for job in found if not job.is_alive]
        if self._ledger is None or not absent:
            return found
        rows = await self._ask_ledger(lambda results: results.states(absent))
        return [_with_outcome(job, rows[job.job_id]) if job.job_id in rows else job for job in found]

    async def abort(self, job_id: str) -> bool:
        """Ask the workers to abort a job, as arq's `Job.abort` does; return False if the job is not in the queue.

        Writes the request to Redis, and returns before a worker has read it, so the job may still be applied.
        """
        status = await self.status(job_id)
        if status not in ("queued", "deferred", "in_progress"):
            return False
        asking = self._redis.pipeline(transaction=True)
        asking.zadd(wire.ABORTS, {job_id: now_ms()})
        if status == "deferred":  # due now, so that somebody claims it and finds the mark
            asking.zadd(self._redis.default_queue_name, {job_id: 1}, xx=True)
        await asking.execute()
        return True

    async def queued(self) -> int:
        """Return the number of jobs in the queue, waiting or running."""
        return int(await self._redis.zcard(self._redis.default_queue_name))

    async def result(self, job_id: str, *, timeout_s: float | None = None) -> dict[str, object]:
        """Wait for a job's result in Redis and return it. Only the ledger proves an outcome: others can write to Redis.

        Raises `TimeoutError` after *timeout_s*, `RuntimeError` with the error of a failed job, and
        `arq.jobs.ResultNotFound` for a job that is not there.
        """
        return await self.state.wait(job_id, timeout_s)

    async def bury(self, pid: int) -> int:
        """Put the jobs of a dead worker process back into the queue; return the number of leases that it held.

        A lease is the time for which a worker holds jobs. *pid* is the process id of the worker on this host. Without
        this call, other workers take the jobs over when the lease ends, after LEASE seconds.
        """
        return await self.state.release_owners(Identity.worker_id_prefix(pid))

    async def _send(self, jobs: Sequence[_Encoded], *, again: bool) -> list[bool]:
        """Enqueue jobs in one call of `enqueue.lua`; return for each whether it was enqueued."""
        names = [self._redis.default_queue_name, wire.RECEIPT + uuid.uuid4().hex]
        args = [_RECEIPT_MS, int(again), *(part for job in jobs for part in job.as_arguments())]
        try:
            reply: bytes = await self._reach(
                "redis",
                "the queue",
                lambda: self._enqueue(keys=names, args=args),
                lambda error: RedisFault.of(error).is_passing,
            )
        except Exception as error:
            if RedisFault.of(error).is_passing:
                raise RedisUnavailable(str(error)) from error
            raise
        return [answer == "1" for answer in reply.decode()]

    async def _settled(self, submissions: Sequence[Submission]) -> Collection[str]:
        """Return the ids of those jobs whose id is their identity and that have an outcome in the ledger."""
        keys = [(submission.id, IDENTITY_MS) for submission in submissions if submission.identity]
        found = await self._ask_ledger(lambda results: results.lookup(keys)) if keys else {}
        return {job_id for job_id, _ in found}

    async def _ask_ledger(self, ask: Callable[[ResultRepository], Awaitable[T]]) -> T:
        ledger = self._required_ledger()

        async def look() -> T:
            async with ledger.acquire() as connection:
                return await ask(ResultRepository(connection))

        return await self._reach("postgresql", "the ledger", look, lambda error: isinstance(error, Unavailable))

    async def _reach(
        self, server: str, address: str, call: Callable[[], Awaitable[T]], passes: Callable[[Exception], bool]
    ) -> T:
        return await RetryPolicy.for_start(self._patience_s).reach(server, address, call, passes)

    def _required_ledger(self) -> Pool:
        if self._ledger is None:
            raise ValueError("a client without a ledger knows no outcomes")
        return self._ledger


@asynccontextmanager
async def open_client(settings: Settings) -> AsyncGenerator[JobClient]:
    """Yield a client of the queue that *settings* name, and close it at the end of the block.

    Starts the embedded servers if *settings* name no others.
    """
    with servers.running(settings) as urls:
        redis = RedisClient.open(urls.redis, queue_name=settings.queue_name, connect_timeout_s=settings.connect_timeout)
        try:
            yield JobClient(redis)
        finally:
            await redis.aclose(close_connection_pool=True)


def _with_outcome(job: JobState, row: Row) -> JobState:
    """Return *job*, which is not in the queue, as the database knows it: *row* is of its function `job_states`."""
    if row["state"] == "unknown":
        return job
    if row["state"] == "enqueued":
        return JobState(job.job_id, "queued")
    return job._replace(
        state=row["state"], attempts=row["attempts"], ended_at=row["since"], reason=row["reason"], error=row["error"]
    )


def _function_of(payload: object) -> str | None:
    """Return the name of the function in a job's encoded content, or None if that is missing, truncated or invalid."""
    try:
        function = wire.deserialize(payload).get("f") if isinstance(payload, bytes) else None
    except ValueError:
        return None
    return function[:_MOST_NAME] if isinstance(function, str) else None


def _time_of(score: object) -> datetime | None:
    try:
        return datetime.fromtimestamp(score / 1000, UTC) if isinstance(score, float) else None
    except (ValueError, OverflowError, OSError):
        return None


def _parts(jobs: Sequence[_Encoded]) -> Iterator[Sequence[_Encoded]]:
    """Split a list of jobs into parts of at most `MOST_BYTES_AT_ONCE` bytes."""
    start = size = 0
    for end, job in enumerate(jobs):
        if size + len(job.payload) > MOST_BYTES_AT_ONCE and end > start:
            yield jobs[start:end]
            start, size = end, 0
        size += len(job.payload)
    yield jobs[start:]


def _payload(submission: Submission, now: int, *, again: bool) -> bytes:
    """Encode a job. Raises `ValueError` if it is too large, except with *again*: then the worker rejects it."""
    enqueued_at_ms = now if submission.enqueued_ms is None else submission.enqueued_ms
    payload = wire.encode(submission, enqueued_at_ms)
    if len(payload) > wire.MAX_PAYLOAD_BYTES and not again:
        raise ValueError(f"job {submission.id} is larger than {wire.MAX_PAYLOAD_BYTES} bytes")
    return payload
