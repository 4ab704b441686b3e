"""Settings of a worker's engine that go beyond those of arq, such as the length of a lease on jobs."""

import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Never, Protocol, TypeAlias

from arq.connections import ArqRedis
from arq.worker import Function, func

from tidepool.jobs.job import Job
from tidepool.jobs.job_type import AnyJobType, JobTypes
from tidepool.jobs.outcomes import Outcome, RetryLater

ArqContext: TypeAlias = dict[Any, Any]
"""arq's ctx dict: what the startup hook has put in; for a job also its id, attempt, enqueue time and score."""

_MAX_TRIES = 1_000_000
"""arq's limit of attempts, set so high that only the ledger's limit ends a job."""


class Observer(Protocol):
    """Keeps a record of the jobs of plain functions. No method may raise an error or wait for long."""

    async def start(self, context: ArqContext, worker_id: str, functions: Collection[str]) -> None:
        """Begin; called after the worker's startup hook.

        The arguments are arq's ctx, the worker's name in Redis, and the names of its functions and cron jobs. Raises
        `StartError` to end the worker.
        """
        ...

    def beaten(self) -> bool:
        """Record a heartbeat, as `EngineOptions.beaten`; return whether the worker is ready, as `is_ready` does."""
        ...

    def ended(self, job: Job) -> None:
        """Record a job that has ended for good; `Job.error` says how. Called before the job is acknowledged."""
        ...

    async def stop(self) -> None:
        """Write what is not written yet; called when the worker has ended, before its shutdown hook."""
        ...


class Submits(Protocol):
    """Settles jobs, as `Batcher` does, which gathers them into transactions."""

    async def submit(self, job: Job) -> Outcome | RetryLater:
        """Return the outcome that the ledger has for *job*, or `RetryLater`, with a delay."""
        ...


class KeepsOutcomes(Protocol):
    """Knows which jobs have an outcome, as `Ledger` does."""

    async def outcome(self, job: Job) -> Outcome | None:
        """Return the outcome that is committed for *job*, or None; waits for as long as PostgreSQL is unavailable."""
        ...


@dataclass(slots=True)
class TypedJobs:
    """The declared job types *types* that a worker runs, each job up to *max_tries* times.

    Set *batcher*, which jobs are submitted to, before any job is run; and *ledger*, which is asked before the function
    of a job type without a handler runs.
    """

    types: JobTypes
    max_tries: int
    batcher: Submits | None = None
    ledger: KeepsOutcomes | None = None

    def arq_functions(self) -> list[Function]:
        """Return the job types as functions for arq's settings.

        Those with a ledger row have none of arq's limits of time and attempts. The ledger limits the attempts instead,
        since it must have a row for each failed job; and while PostgreSQL is unavailable, jobs wait without a limit.
        """
        return [self._arq_function(job_type) for job_type in self.types]

    def _arq_function(self, job_type: AnyJobType) -> Function:
        if job_type.handler is not None:
            return func(_run_by_arq, name=job_type.name, timeout=math.inf, max_tries=_MAX_TRIES)
        attempts = self.attempts_of(job_type)
        return func(job_type.run, name=job_type.name, timeout=job_type.timeout_s, max_tries=attempts)

    def attempts_of(self, job_type: AnyJobType | None) -> int:
        """Return how many attempts a job of this type has; None: a type that this worker does not know."""
        return (job_type and job_type.attempts) or self.max_tries


async def _run_by_arq(*_args: object, **_fields: object) -> Never:
    raise RuntimeError("jobs of declared types need EngineOptions.typed")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings of the engine that arq does not have: the option `tidepool` of a Worker. All are optional.

    - *owner*: name of the process in Redis
    - *lease_s*: seconds after which other workers run the jobs of this process if it dies
    - *longest_block_s*: seconds for which the event loop may be blocked, by a function that never awaits, before the
      lease is no longer renewed and other workers run this process's jobs. None: the longest timeout of a function and
      10 s, after which arq's workers would run them, too
    - *connect*: opens the Redis connection, in place of arq's `create_pool`
    - *id_prefix*: text before the ids of the jobs that this worker enqueues: its cron jobs, and those of
      `ctx["redis"]`. Applications with different prefixes can share a Redis database; see `ScopedRedis`, which does the
      same for other clients. Without effect on which jobs the worker runs
    - *typed*: the declared job types, and what their jobs are submitted to
    - *may_claim*: while it returns False, no new jobs are claimed; the jobs that the worker has go on
    - *beaten*: called at every heartbeat, each 0.5 s while the worker's main loop runs
    - *is_ready*: while it returns False, the key that `arq --check` reads is not renewed and so expires
    - *max_job_bytes*: max size of a job's content; a larger one is not read from Redis; see *leave_s*
    - *max_result_bytes*: max size of a job's encoded result, which must be below what Redis takes in one value
      (`proto-max-bulk-len`, 512 MiB by default). A larger one is kept without the job's arguments; if that is still
      too large, its client gets arq's `SerializationError`
    - *max_held_bytes*: while the worker's jobs have that many bytes together, it claims no more; jobs of up to 4 KiB
      are not counted, since `max_jobs` bounds them
    - *max_kept_bytes*: the arguments of a larger job are not kept while it runs, nor in its result; None: always kept
    - *leave_s*: seconds for which a worker leaves a job that it does not understand to other workers. The job calls a
      function that it does not have, cannot be decoded by its deserializer, or is larger than *max_job_bytes*. After
      that time the job becomes a dead letter, unless a live worker has announced that it may understand it; in burst
      mode, at once. None: such a job fails, as in arq. A worker with *typed* leaves a job whose function it does not
      have, or whose only fault is unknown fields; after that time, or at once, it rejects the job as invalid
    - *log_arguments*: whether the log line of a job's start shows its arguments
    - *on_final_failure*: async function that is called with arq's ctx and the error when a plain function's job has
      failed for good: an error, the last try, too many lost workers. It is called before the job is acknowledged, so
      again if the worker is lost at that moment. It is not called for a dead letter, which may be put back and run
    - *observer*: called for each worker; returns what keeps a record of the jobs of plain functions
    - *concurrency*: max number of jobs that run at a time in this process, by name of a plain function or cron job.
      Others of that function are put back without spending a try: for clients they are deferred, for a second or, if
      hundreds are put back, up to a minute. The oldest is due again as soon as one that runs here has ended. Timeouts
      count from the start of the function, so a limit that a function's own thread pool or service can bear keeps its
      jobs from timing out while they wait there. `threaded` runs blocking functions, one thread for each running job
    """

    owner: str = ""
    lease_s: float = 5.0
    longest_block_s: float | None = None
    connect: Callable[[], Awaitable[ArqRedis]] | None = None
    id_prefix: str = ""
    typed: TypedJobs | None = None
    may_claim: Callable[[], bool] = lambda: True
    beaten: Callable[[], None] = lambda: None
    is_ready: Callable[[], bool] = lambda: True
    max_job_bytes: int = 64 * 1024 * 1024
    max_result_bytes: int = 256 * 1024 * 1024
    max_held_bytes: int = 64 * 1024 * 1024
    max_kept_bytes: int | None = None
    leave_s: float | None = 60.0
    log_arguments: bool = True
    on_final_failure: Callable[[ArqContext, BaseException], Awaitable[object]] | None = None
    observer: Callable[[], Observer] | None = None
    concurrency: Mapping[str, int] = field(default_factory=dict[str, int])
