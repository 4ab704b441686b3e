"""Runs one batch of jobs in one transaction, and stores their outcomes in the ledger, the table job_results.

A job is *settled* when its outcome is committed.

This makes effects exactly-once. A batch's transaction

1. calls the handler, which makes the jobs' effects and returns a verdict for each (often the SQL decides),
2. writes the jobs' ledger rows, keyed by job id and enqueue time, or by the id alone if that is the job's identity,
3. commits effects and rows together, or neither.

A job that was run before has a row already, and so has one that another worker, which also holds it, settled a moment
ago. Then step 2 inserts fewer rows than it should, or step 1 breaks a constraint. The effects are rolled back and the
batch runs again, and this time it first looks up which jobs have an outcome. Those jobs get the stored one. Few batches
have such a job, so the look-up is made only after the conflict.

If a transaction fails and no job is the cause (the server is away, it refuses us or the ledger's own statements, or two
transactions are in conflict), the same batch runs again. If the data or the code of one job is the cause, the batch is
split in halves until that job is alone, and the others' outcomes are what they would have been without it.
"""

import asyncio
import json
import random
import re
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

import structlog
from pydantic_core import to_json

from tidepool.jobs.handlers import TransactionSource
from tidepool.jobs.job import Job, JobKey
from tidepool.jobs.job_type import ERROR_DELAYS_S, AnyJobType, JobTypes
from tidepool.jobs.outcomes import (
    Applied,
    CommonReason,
    Failed,
    HandlerError,
    LookAgain,
    Outcome,
    Reason,
    Reject,
    Rejected,
    RetryLater,
    Unresolved,
    Verdict,
    retry_delay_s,
)
from tidepool.ledger.batcher import Tally
from tidepool.pool.connection import Connection
from tidepool.pool.faults import (
    Conflict,
    DatabaseFault,
    DataFault,
    NotStored,
    PoolClosed,
    Refused,
    ServerError,
    StatementTimeout,
    Unavailable,
    words,
)
from tidepool.pool.pool import Pool
from tidepool.queue.wire import MAX_KEPT_BYTES
from tidepool.repeating import RetryPolicy, heed_cancel
from tidepool.storage.results import Entry, ResultRepository, storable

log = structlog.get_logger(__name__)

T = TypeVar("T")

UNRESOLVED_DELAYS_S = (0.5, 2.5, 4.0, 5.0)
"""Seconds before attempts 2, 3, … of a job whose handler returned `Unresolved`. Their sum is two seconds more than two
default leases, because the job that it waits for may be held by a worker that dies, and then by another one. The sum is
not larger because the job has no outcome before that time."""
_OUTAGE_DELAYS_S = (0.05, 0.1, 0.2, 0.5)
"""Seconds between attempts to reach PostgreSQL; the last one is repeated until it is back."""
_OUTAGE = RetryPolicy(first_s=0.05, max_s=0.5)
"""The same for a call that is not a batch's transaction."""
_MAX_CONFLICTS = 8
"""Max conflicts of one batch with other transactions; after more, its jobs fail. With random delays of up to 2.5 s, so
many in a row are no coincidence."""
_CONFLICT_DELAY_S = 0.01
"""Seconds: the base of the random delay after a conflict, whose max doubles each time."""
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""Matches the escape of a NUL character in JSON text, which PostgreSQL's type jsonb cannot hold."""
_NOT_SETTLED = (RetryLater, LookAgain)

_Settled = Outcome | RetryLater | LookAgain


class Ledger:
    """Runs batches of jobs in transactions, and stores the jobs' outcomes in the table job_results, for one worker.

    *worker_id* is stored with each outcome. A handler that takes longer than *handler_timeout_s* seconds is cancelled,
    and its jobs are run again, up to their last attempt. *schema* is that of the library's tables, for transactions
    that do not come from *pool*.
    """

    def __init__(
        self,
        pool: Pool,
        types: JobTypes,
        *,
        worker_id: str,
        handler_timeout_s: float = 60.0,
        schema: str = "tidepool",
    ) -> None:
        self.tally = Tally(known=frozenset(job_type.name for job_type in types))
        self.database_is_away = False
        """Whether the last transaction could not reach PostgreSQL. While it is True, the worker claims no more jobs."""
        self._handler_timeout_s = handler_timeout_s
        self._pool = pool
        self._types = types
        self._worker_id = worker_id
        self._schema = schema
        self._write_us: dict[str, int] = {}
        """How many microseconds it took to write and commit the rows of the last batch, by function."""

    async def settle(self, function: str, batch: Sequence[Job]) -> list[_Settled]:
        """Run a batch of jobs of one job type in a transaction, and return one result for each job, in order.

        A result is the job's outcome, `RetryLater` if the job has to be retried after a delay, or `LookAgain` if its
        handler has to be called again soon. Waits as long as the database is unavailable. The keys of the jobs must be
        distinct. Raises `PoolClosed` if the process is shutting down.
        """
        was_lost = any(job.lapses for job in batch)  # a lost worker may have settled it
        is_unknown = self._types.get(function) is None  # another worker may have known more of them
        return await self._settle_or_split(function, batch, look_up=was_lost or is_unknown)

    # ---------------------------------------------------------------- functions' jobs

    async def outcome(self, job: Job) -> Outcome | None:
        """Return the outcome of *job* that is committed in the ledger, or None; see `reach` for how long it waits."""

        async def look_up() -> Outcome | None:
            async with self._pool.acquire() as connection:
                with _own_statement(1):
                    return (await ResultRepository(connection).lookup([job.key])).get(job.key)

        return await self.reach(look_up)

    async def reach(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call *call*, and repeat that while PostgreSQL is unavailable or refuses us, until the task is cancelled.

        Returns the result of *call*, and raises its other errors.
        """

        def is_temporary(error: Exception) -> bool:
            return isinstance(error, (Unavailable, Refused))

        def note(error: Exception, _attempt: int) -> None:
            self._note_outage(error)

        result = await _OUTAGE.retry(call, is_temporary, note)
        self._note_answer()
        return result

    def source_of(self, job: Job) -> TransactionSource | None:
        """Return where the transactions of a job's type come from; None: from the worker's pool."""
        job_type = self._types.get(job.function)
        return job_type and job_type.source

    def transaction(self, source: TransactionSource | None) -> AbstractAsyncContextManager[Connection]:
        """Return a context manager for a transaction of *source*, or of the worker's pool if that is None."""
        return source.transaction(self._schema) if source else self._pool.transaction()

    async def write_applied(self, job: Job, result: object, connection: Connection, begun_ns: int) -> None:
        """Write the ledger row of a function's job into the open transaction of *connection*, begun at *begun_ns*.

        Raises `Conflict` if the job has an outcome already.
        """
        db_us = (time.perf_counter_ns() - begun_ns) // 1000
        entry = _entry(job, Applied(result), begun_ns)
        with _own_statement(1):
            await self._write(job.function, [entry], ResultRepository(connection), db_us, 0)

    def applied(self, job: Job, result: object) -> None:
        """Record that a function's job was committed with *result*."""
        job.settled = Applied(result)
        self.tally.add([job.settled], job.function)

    # ---------------------------------------------------------------- batches

    async def _settle_or_split(self, function: str, batch: Sequence[Job], *, look_up: bool) -> list[_Settled]:
        try:
            return await self._retry_transaction(function, batch, look_up=look_up)
        except PoolClosed:
            raise
        except Exception as error:  # noqa: BLE001  (a bug in a handler must not take the others with it)
            if isinstance(error, DataFault) and not look_up:
                parts = [batch]  # it may be the row of an order that was placed before
            elif len(batch) == 1:
                return [await self._settle_alone(batch[0], error)]
            else:
                parts = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        return [outcome for part in parts for outcome in await self._settle_or_split(function, part, look_up=True)]

    async def _settle_alone(self, job: Job, error: Exception) -> _Settled:
        """Settle the single job whose data or code raised *error*: as rejected or failed, or it is retried later."""
        decided = self._outcome_of(job, error)
        if isinstance(decided, RetryLater):
            self.tally.add((), job.function, retried=1)
            return decided
        job.decided = decided
        try:
            (outcome,) = await self._retry_transaction(job.function, [job], look_up=True)
        except DataFault as fault:  # its content does not even fit the ledger's row
            log.warning("job.content_dropped", job_id=job.id, error=str(fault))
            job.content = None
            (outcome,) = await self._retry_transaction(job.function, [job], look_up=True)
        return outcome

    def _outcome_of(self, job: Job, error: Exception) -> Rejected | Failed | RetryLater:
        """Return how a job ends whose data or code has raised *error*: it is rejected, tried again, or has failed."""
        if isinstance(error, DataFault):
            return Rejected(self._reason(job.function, error.constraint), str(error))
        cause = error.__cause__ if isinstance(error, HandlerError) and error.__cause__ else error
        if isinstance(cause, Reject):
            return cause.rejected
        text = storable(str(error) if isinstance(error, HandlerError) else f"{type(error).__name__}: {error}")
        job_type = self._types.get(job.function)
        delay_s = retry_delay_s(cause)
        if delay_s is not None and not job.is_last_attempt:
            return RetryLater(delay_s, text)
        is_last = job.is_last_attempt or (job_type is not None and not isinstance(cause, job_type.retry_on))
        event = "job.failed" if is_last else "job.retried"
        log.error(event, job_id=job.id, function=job.function, attempt=job.attempt, exc_info=cause)
        if is_last:
            return Failed(text)
        return RetryLater(job_type.retry_delay_s(job.attempt), text) if job_type else _later(ERROR_DELAYS_S, job, text)

    def _conclude(self, job: Job, verdict: Verdict | Failed | Exception) -> _Settled:
        if isinstance(verdict, Exception):
            return self._outcome_of(job, verdict)
        if not isinstance(verdict, Unresolved):
            return verdict
        if not job.has_looked_again:
            return LookAgain()  # what it waits for may be in a batch that commits at this moment
        return Rejected(verdict.reason) if job.is_last_attempt else _later(UNRESOLVED_DELAYS_S, job, verdict.reason)

    def _reason(self, function: str, constraint: str) -> Reason:
        """Return the reason for which a job of *function* is rejected if it breaks *constraint*.

        *constraint* is empty if the job's data does not fit a type.
        """
        job_type = self._types.get(function)
        return job_type.constraints.get(constraint, CommonReason.INVALID) if job_type else CommonReason.INVALID

    async def _retry_transaction(self, function: str, batch: Sequence[Job], *, look_up: bool) -> list[_Settled]:
        """Run the batch's transaction, and retry it while it fails because of an outage or a conflict."""
        conflicts = failures = 0
        while True:
            heed_cancel()
            try:
                outcomes = await self._run_transaction(function, batch, look_up=look_up or conflicts + failures > 0)
            except PoolClosed:
                raise
            except (Unavailable, Refused) as fault:
                self._note_outage(fault)
                await asyncio.sleep(_OUTAGE_DELAYS_S[min(failures, len(_OUTAGE_DELAYS_S) - 1)])
                failures += 1
            except Exception as error:
                self._note_answer()
                conflicts += 1
                if not isinstance(error, Conflict) or conflicts > _MAX_CONFLICTS:
                    raise
                await asyncio.sleep(random.uniform(0, _CONFLICT_DELAY_S * 2**conflicts))
            else:
                self._note_answer()
                return outcomes

    def _note_outage(self, fault: Exception) -> None:
        if not self.database_is_away:
            log.warning("database.unavailable", error=str(fault))
        self.database_is_away = True

    def _note_answer(self) -> None:
        """Record that the server answers, even if with an error: otherwise the worker would claim no more jobs."""
        if self.database_is_away:
            log.info("database.back")
        self.database_is_away = False

    async def _run_transaction(self, function: str, batch: Sequence[Job], *, look_up: bool) -> list[_Settled]:
        counted_name = self.tally.name_of(function)
        job_type = self._types.get(function)
        fresh: list[Job] = []
        committing = False
        try:
            async with self.transaction(job_type and job_type.source) as connection:
                begun_ns = time.perf_counter_ns()
                results = ResultRepository(connection)
                stored = await self._stored(function, batch, results) if look_up else {}
                fresh = [job for job in batch if job.key not in stored]
                verdicts = await self._verdicts(job_type, fresh, connection)
                decided = [self._conclude(job, verdict) for job, verdict in zip(fresh, verdicts, strict=True)]
                settled = [(j, o) for j, o in zip(fresh, decided, strict=True) if not isinstance(o, _NOT_SETTLED)]
                write_ns = time.perf_counter_ns()
                if settled:
                    entries = [_entry(job, outcome, begun_ns) for job, outcome in settled]
                    write_us = self._write_us.get(counted_name, 0)
                    db_us = (write_ns - begun_ns) // 1000 + write_us
                    with _own_statement(len(entries)):
                        await self._write(function, entries, results, db_us, write_us)
                committing = True
        except DatabaseFault as fault:
            was_asked = committing and any(job.decided is None for job in fresh)
            if was_asked and fault.is_of_one_statement:  # a deferred trigger of the handler's tables
                raise HandlerError(f"PostgreSQL refuses its commit: {words(fault.__cause__ or fault)}") from None
            raise
        if settled:
            self._write_us[counted_name] = (time.perf_counter_ns() - write_ns) // 1000
        retried = sum(isinstance(outcome, RetryLater) for outcome in decided)
        self.tally.add([outcome for _, outcome in settled], function, retried=retried)
        fresh_outcomes = iter(decided)
        return [stored.get(job.key) or next(fresh_outcomes) for job in batch]

    async def _stored(self, function: str, batch: Sequence[Job], results: ResultRepository) -> dict[JobKey, Outcome]:
        """Return the outcomes that jobs of the batch have already, by the jobs' keys."""
        with _own_statement(len(batch)):
            stored = await results.lookup([job.key for job in batch])
            if self._types.get(function) is None:
                by_id = await results.lookup_unknown([(job.id, job.due_ms) for job in batch])
                stored |= {job.key: by_id[job.id] for job in batch if job.id in by_id}
        return stored

    async def _verdicts(
        self, job_type: AnyJobType | None, fresh: Sequence[Job], connection: Connection
    ) -> list[Verdict | Failed | Exception]:
        """Return the handler's verdict on each job, without asking it about jobs whose outcome is decided already."""
        jobs = [job for job in fresh if job.decided is None]
        if not (jobs and job_type and job_type.handler):
            return [job.decided or Failed("its job type has no handler") for job in fresh]
        timeout_s = job_type.timeout_s or self._handler_timeout_s
        answers = iter(await job_type.handler(connection, jobs, timeout_s))
        return [job.decided or next(answers) for job in fresh]

    async def _write(
        self, function: str, entries: Sequence[Entry], results: ResultRepository, db_us: int, write_us: int
    ) -> None:
        """Write the ledger rows of a batch. Raises `Conflict` if another worker has written one of them before."""
        count = await results.write(function, entries, worker_id=self._worker_id, db_us=db_us, write_us=write_us)
        if count < len(entries):
            raise Conflict("another worker has settled a job of this batch")


@contextmanager
def _own_statement(jobs: int) -> Generator[None]:
    """Convert errors of the ledger's own statement in the block, so that no job is rejected for them.

    If a grant, table or column is missing, or a statement for a single job takes too long, `Refused` is raised, after
    which the batch is run again. If a statement for several jobs takes too long, its batch may be too large: the error
    is raised unchanged, and the batch is split. A constraint that the ledger does not know becomes `NotStored`.
    """
    try:
        yield
    except ServerError as error:
        fault = DatabaseFault.of(error)
        if getattr(error, "sqlstate", "").startswith("42") or (isinstance(fault, StatementTimeout) and jobs == 1):
            raise Refused(f"the ledger's own statement: {words(error)}") from error
        if getattr(error, "sqlstate", "").startswith("23"):
            raise NotStored(f"the ledger's row: {fault}") from None
        raise


def _later(delays_s: Sequence[float], job: Job, cause: str) -> RetryLater:
    return RetryLater(delays_s[min(job.attempt, len(delays_s)) - 1], cause)


def _entry(job: Job, outcome: Outcome, begun_ns: int) -> Entry:
    """Return the ledger row of a job whose transaction began at *begun_ns* (`time.perf_counter_ns`)."""
    is_applied = isinstance(outcome, Applied)
    return Entry(
        job_id=job.id,
        status=_status_of(outcome),
        result=to_json(outcome.result).decode() if is_applied else None,
        reason=outcome.reason if isinstance(outcome, Rejected) else None,
        error=None if is_applied else outcome.detail if isinstance(outcome, Rejected) else outcome.error,
        args=None if is_applied else _kept(job.content),
        attempts=job.attempt,
        enqueued_at_ms=job.enqueued_ms,
        started_at_ms=job.started_ms,
        queue_us=job.queue_us,
        pool_wait_us=job.waited_us(begun_ns),
        batch_us=job.batch_us,
        key_ms=job.key[1],
    )


def _kept(content: object) -> str | None:
    """Return a job's arguments as the JSON that the ledger keeps, so that the job can be enqueued again.

    Returns None if they are no JSON object, too large, or do not fit into jsonb; no worker could apply the latter.
    """
    if not isinstance(content, dict):
        return None
    try:
        text = json.dumps(content, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except ValueError:  # infinity, or a lone surrogate
        return None
    return None if size > MAX_KEPT_BYTES or _ESCAPED_NUL.search(text) else text


def _status_of(outcome: Outcome) -> str:
    """Return the value of the ledger's column `status` for *outcome*: `applied`, `rejected` or `failed`."""
    return type(outcome).__name__.lower()
