"""Makes one attempt at a claimed job: runs it, and decides how the attempt ends.

The steps are those of arq: decode the job, look up its function, check the number of tries (`admission`), and run the
function under its timeout, between the hooks. How the attempt ends depends on the function:

| the function …                       | the job                                              |
|--------------------------------------|------------------------------------------------------|
| returns                              | is done, with the result                             |
| raises `Retry`                       | runs again, after the delay; a try is spent          |
| raises `CancelledError`, `RetryJob`  | runs again at once; a try is spent                   |
| is cancelled by an abort             | is done, with the cancellation as its failed result  |
| is cancelled because the worker stops| runs again; a try is spent                           |
| ends the process (`sys.exit`)        | runs again; a try is spent                           |
| raises anything else, or takes too long | is done, with the error as its failed result      |

A worker that is lost while it runs a function spends a try, too, so `max_tries=1` and `retry_jobs=False` mean that a
function is never begun twice.

A job of a declared type is validated and submitted to the batcher (`EngineOptions.typed`), which returns its outcome,
or a delay after which to run it again. Its effect is exactly-once, so neither a stop nor a lost worker spends a try.
The result that arq's `Job.result()` returns is a JSON object, or the error `JobFailed`:

    {"status": "applied", "result": {"user_id": 7}}
    {"status": "rejected", "reason": "email_taken", "error": "another user has this email"}

A job that this worker does not understand (an unknown function, content that it cannot decode) is left to other workers
for `EngineOptions.leave_s`, and then becomes a dead letter; without that option it cannot be run. With declared job
types, it is rejected then, and so is a job whose unknown fields may be those of a newer version.

A job that cannot be run (content that is missing or invalid, three workers lost while they ran it) is done, with the
reason as its failed result. With declared job types, the ledger first records that outcome. If it has another one
already, that is the job's result: it was applied before its worker was lost.
"""

import asyncio
import logging
import math
from typing import Literal

import structlog
from arq.typing import StartupShutdown
from arq.utils import ms_to_datetime
from arq.worker import Retry, RetryJob

from tidepool.engine import lines, threads
from tidepool.engine.admission import Admission, Refusal
from tidepool.engine.host import Host
from tidepool.engine.leaving import LeftJobs
from tidepool.engine.options import ArqContext, TypedJobs
from tidepool.engine.results import Results
from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import (
    Applied,
    CommonReason,
    Failed,
    Outcome,
    Reject,
    Rejected,
    Release,
    RetryLater,
    Settled,
)
from tidepool.logs import printable, text_of
from tidepool.queue.finisher import Done, Ending, Lacks, SetAside

log = structlog.get_logger(__name__)

_HOOK_DELAY_MS = 1000
"""Milliseconds until a job is due again that was put back because its start hook raised an error."""
_UNSETTLED_DELAY_S = 1.0
"""Seconds before a job is run again if an unexpected error kept its outcome from being stored."""
_MAX_REASON_CHARACTERS = 200
_MAX_NAME_CHARACTERS = 100
"""Max characters of a function's name in the ledger."""

_Hook = Literal["on_job_start", "on_job_end", "after_job_end"]


class JobFailed(Exception):
    """The job has failed; the text says why. arq's clients get this error as the job's result."""


class Attempts:
    """Makes attempts at the jobs of the worker *host*, each in the calling task."""

    def __init__(self, host: Host) -> None:
        options = host.tidepool_options
        self._host = host
        self._typed = options.typed
        self._admission = Admission(host)
        self._results = Results(host)
        self.has_reports = host.tidepool_observer is not None or options.on_final_failure is not None
        """Whether there is anything that `report` has to call."""
        self.left = LeftJobs(options.leave_s or 0.0)
        """The jobs that are left to other workers; the worker does not claim those that it skips."""

    def decode(self, job: Job) -> None:
        """Decode *job*, if that is possible: `Job.function` is known then."""
        self._admission.decode(job)

    async def make(self, job: Job) -> Ending:
        """Make one attempt at *job*, in the calling task, and return how it ended: done, or to be run again.

        Errors that the job raises become part of what is returned. If the hook `on_job_start` raises an error, the job
        is not run, and is put back.
        """
        host = self._host
        refusal = self._admission.refusal(job)
        if refusal is not None:
            return await self._refuse(job, refusal)
        if not job.is_typed or host.on_job_start or host.on_job_end or host.after_job_end:
            job.context = self._context(job)
        if host.on_job_start and not await self.call_hook("on_job_start", job):
            return Release(_HOOK_DELAY_MS)
        try:
            if lines.per_job.isEnabledFor(logging.INFO):
                lines.log_start(job, with_arguments=host.tidepool_options.log_arguments)
            if job.is_typed:
                ending = await self._run_typed(job)
            else:
                ending = await self._run_plain(job)
        except (Exception, asyncio.CancelledError, Settled) as error:  # noqa: BLE001  (every end of a job is decided here)
            ending = await self._ending_of(job, error)
        if host.on_job_end:
            await self.call_hook("on_job_end", job)
        return ending

    async def call_hook(self, name: _Hook, job: Job) -> bool:
        """Call a hook of the worker with the job's context, if it has one; return False if the hook raised an error.

        The error is logged. It would end arq's worker, and its other jobs with it.
        """
        hook: StartupShutdown | None = getattr(self._host, name)
        if hook is None or job.context is None:
            return True
        try:
            await hook(job.context)
        except asyncio.CancelledError:
            if name == "on_job_start":
                raise
            lines.log_hook(name, job)  # the function has ended, and how it did so stays
            return False
        except Exception:  # noqa: BLE001  (an application's own code)
            lines.log_hook(name, job)
            return False
        return True

    async def report(self, job: Job, ending: Ending) -> None:
        """Call the observer and the hook for final failures if *job*, of a plain function, is done."""
        if not isinstance(ending, Done) or job.is_typed:
            return
        options = self._host.tidepool_options
        if self._host.tidepool_observer is not None:
            try:
                self._host.tidepool_observer.ended(job)
            except Exception:  # noqa: BLE001  (how the job ended stays)
                lines.log_observer(job)
        if job.error is None or job.is_aborted or options.on_final_failure is None:
            return
        try:
            await options.on_final_failure(job.context or self._context(job), job.error)
        except (Exception, asyncio.CancelledError):  # noqa: BLE001  (an application's own code)
            lines.log_hook("on_final_failure", job)

    # ---------------------------------------------------------------- a job that cannot be run

    async def _refuse(self, job: Job, refusal: Refusal) -> Ending:
        """Record the outcome of a job that is not run, and return how its attempt ends."""
        job.forget_arguments()
        settled: Outcome | RetryLater | Release | None = None
        if self._typed is not None:
            job.function = _readable(job.function, _MAX_NAME_CHARACTERS)
            job.decided = refusal.outcome
            settled = await self._settle(job, self._typed)
        elif refusal.lacks is not None and self._host.tidepool_options.leave_s is not None:
            return self._leave(job, refusal, refusal.lacks)
        if isinstance(settled, Release):
            return settled
        job.settled = None if isinstance(settled, RetryLater) else settled
        lines.failures.warning("%s", refusal.line)
        if isinstance(settled, RetryLater):
            return settled
        if settled is None or isinstance(settled, Failed) or _is_abort(settled):
            return self._results.done(job, refusal.error, success=False, was_run=refusal.was_run)
        return self._done(job, settled)

    def _leave(self, job: Job, refusal: Refusal, lacks: Lacks) -> Release | SetAside:
        """Leave a job that this worker does not understand to others, or make it a dead letter if its time is over."""
        reason = printable(str(refusal.error.__cause__ or refusal.error), _MAX_REASON_CHARACTERS)
        left = None if self._host.burst else self.left.leave(job, reason)
        return left or SetAside(lacks, reason, job.function if lacks is Lacks.FUNCTION else "")

    # ---------------------------------------------------------------- running it

    async def _run_typed(self, job: Job) -> Ending:
        """Validate and submit a job of a declared type, and return how the attempt ends."""
        assert self._typed is not None
        job.is_running = True
        try:
            self._admission.validate(job)
            job.forget_arguments()
            settled = await self._settle(job, self._typed)
        finally:
            job.is_running = False
        if isinstance(settled, RetryLater):
            lines.log_retry(job, settled.delay_s)
        return settled if isinstance(settled, (RetryLater, Release)) else self._settled(job, settled)

    def _settled(self, job: Job, outcome: Outcome) -> Ending:
        """Return the ending of a job that has this outcome in the ledger."""
        if isinstance(outcome, Failed):
            return self._failed(job, JobFailed(outcome.error))
        return self._done(job, outcome)

    def _done(self, job: Job, outcome: Applied | Rejected) -> Ending:
        """Return the ending of a job with this outcome, with the result that its type's clients expect."""
        job_type = self._typed.types.get(job.function) if self._typed else None
        if job_type is None or (job_type.wraps_results and job_type.handler is not None):
            return self._succeeded(job, outcome.as_result())
        if isinstance(outcome, Applied):
            return self._succeeded(job, outcome.result)
        return self._results.done(job, Reject(outcome.reason, outcome.detail), success=False)

    async def _settle(self, job: Job, typed: TypedJobs) -> Outcome | RetryLater | Release:
        """Submit *job* to the batcher and return its outcome; or `RetryLater`; or `Release` for a newer worker.

        A job whose outcome is decided already is submitted, too: the ledger stores that outcome, or returns the one
        that it has if the job was applied earlier by a worker that was lost before it could report that.
        """
        decided = job.decided
        if isinstance(decided, Rejected) and decided.is_newer and not self._host.burst:
            left = self.left.leave(job, decided.detail)
            if left is not None:
                return left
        job_type = typed.types.get(job.function)
        job.set_key(is_identity=job_type is None or job_type.identity)
        job.is_last_attempt = job.attempt >= typed.attempts_of(job_type)
        try:
            assert typed.batcher is not None, "a job was run before TypedJobs.batcher was set"
            return await typed.batcher.submit(job)
        except Exception:
            # Without an outcome in the ledger the job must not end, as it would with an exception.
            log.exception("job.unsettled", job_id=job.id, function=job.function)
            return RetryLater(_UNSETTLED_DELAY_S)

    async def _run_plain(self, job: Job) -> Ending:
        """Run a job of a plain function, and return how the attempt ends.

        If the function is a declared one, the ledger is asked first whether an earlier attempt has completed the job.
        """
        typed = self._typed
        if typed is not None and typed.ledger is not None:
            job_type = typed.types.get(job.function)
            job.set_key(is_identity=job_type is not None and job_type.identity)
            try:
                job.settled = await typed.ledger.outcome(job)
            except Exception:
                log.exception("job.unsettled", job_id=job.id, function=job.function)
                return Release(_HOOK_DELAY_MS)
            if job.settled is not None:
                return self._settled(job, job.settled)
        try:
            return self._succeeded(job, await self._run_function(job))
        except BaseExceptionGroup as group:
            if group.subgroup(Settled) is None:
                raise
            raise Settled from None  # raised in a task group of the function

    async def _run_function(self, job: Job) -> object:
        """Call a plain arq function, under its timeout if it has one, and return its result.

        The timeout cancels the calling task, so that no second task is needed. Raises `TimeoutError` then.
        """
        function = self._host.functions[job.function]
        timeout_s = self._host.job_timeout_s if function.timeout_s is None else function.timeout_s
        task = asyncio.current_task()
        assert task is not None
        is_late = False

        def time_out() -> None:
            nonlocal is_late
            is_late = True
            task.cancel(threads.TIMED_OUT)

        timer = None if timeout_s in (None, math.inf) else self._host.loop.call_later(timeout_s, time_out)
        job.is_running = job.has_begun = True
        try:
            running = function.coroutine(job.context or {}, *job.args, **job.kwargs)
            job.forget_arguments()
            return await running
        except asyncio.CancelledError:
            if not is_late:
                raise
            task.uncancel()
            raise TimeoutError from None
        finally:
            job.is_running = False
            if timer is not None:
                timer.cancel()

    def _context(self, job: Job) -> ArqContext:
        """Return the ctx dict that arq calls plain functions and hooks with."""
        return {
            **self._host.ctx,
            "tidepool": job,
            "job_id": job.queue_id,
            "job_try": job.attempt,
            "enqueue_time": ms_to_datetime(job.enqueued_ms),
            "score": job.due_ms,
        }

    # ---------------------------------------------------------------- how it ends

    async def _ending_of(self, job: Job, error: BaseException) -> Ending:
        """Return how an attempt ends if the job's function, or the hook before it, raised *error*."""
        if job.settled is not None:
            if not isinstance(error, Settled):
                log.warning("job.error_after_completion", job_id=job.id, function=job.function, exc_info=error)
            return self._settled(job, job.settled)
        is_cancelled = isinstance(error, asyncio.CancelledError)
        if is_cancelled and job.is_aborted and self._host.allow_abort_jobs:
            return await self._refuse(job, Refusal.of_abort(job, error))
        if job.is_completing:  # it may be committed: the next attempt asks the ledger
            return RetryLater()
        if not self._host.retry_jobs or not isinstance(error, (Retry, RetryJob, asyncio.CancelledError)):
            return self._after_error(job, error)
        if isinstance(error, Retry):
            later = RetryLater((error.defer_score or 0) / 1000)
            lines.log_retry(job, later.delay_s)
            return later
        lines.log_cancellation(job)
        keeps_try = is_cancelled and self._host.tidepool_is_stopping and not job.has_begun
        return Release() if keeps_try else RetryLater()

    def _after_error(self, job: Job, error: BaseException) -> Ending:
        """Return how an attempt at a plain function's job ends that has raised *error*.

        The job has failed, unless the function is a declared one, whose jobs are tried again after such an error.
        """
        job_type = self._typed.types.get(job.function) if self._typed else None
        if self._typed is None or job_type is None or not isinstance(error, job_type.retry_on):
            return self._failed(job, error)
        if isinstance(error, Reject) or job.attempt >= self._typed.attempts_of(job_type):
            return self._failed(job, error)
        log.error("job.retried", job_id=job.id, function=job.function, attempt=job.attempt, exc_info=error)
        cause = printable(f"{type(error).__name__}: {text_of(error)}", _MAX_REASON_CHARACTERS)
        return RetryLater(job_type.retry_delay_s(job.attempt), cause)

    def unsettled(self, job: Job, error: BaseException, *, delay_ms: int = 0) -> Ending:
        """Return how an attempt ends that *error* broke off, which is a cancellation or not the job's own.

        A job whose plain function has begun spends a try, or it might run for ever. Another is put back, to be run
        again after *delay_ms* milliseconds.
        """
        return self.exited(job, error) if job.has_begun else Release(delay_ms)

    def exited(self, job: Job, error: BaseException) -> Ending:
        """Return how an attempt ends if the job's function ends the process with *error*, such as `SystemExit`."""
        return RetryLater() if self._host.retry_jobs else self._failed(job, error)

    def _failed(self, job: Job, error: BaseException) -> Done:
        lines.log_failure(job, error)
        return self._results.done(job, error, success=False)

    def _succeeded(self, job: Job, result: object) -> Done:
        done = self._results.done(job, result, success=True)
        if lines.per_job.isEnabledFor(logging.INFO):
            lines.log_success(job, result, with_result=self._host.log_results)
        return done


def _is_abort(outcome: Outcome) -> bool:
    return isinstance(outcome, Rejected) and outcome.reason == str(CommonReason.ABORTED)


def _readable(text: str, max_characters: int) -> str:
    """Return *text* as the ledger can store it: unprintable characters escaped, cut to *max_characters*."""
    return text[:max_characters] if text.isprintable() else ascii(text)[1:-1][:max_characters]
