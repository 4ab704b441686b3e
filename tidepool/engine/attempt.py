"""Makes one attempt at a claimed job: decodes it, runs it, and decides how the attempt ends.

The steps are those of arq: decode the job, look up its function, check the number of tries, and run the function under
its timeout, between the hooks. How the attempt ends depends on the function:

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

A job of a declared type is run by `EngineOptions.intake` instead, which returns its outcome, a delay after which to run
it again, or that it is put back for a newer worker. Its effect is exactly-once, so neither a stop nor a lost worker
spends a try.

A job that this worker does not understand (an unknown function, content that it cannot decode) is left to other workers
for `EngineOptions.leave_s`, and then becomes a dead letter; without that option it cannot be run.

A job that cannot be run (content that is missing or invalid, three workers lost while they ran it) is done, with the
reason as its failed result. The intake, if there is one, first records that outcome in the ledger. If
the ledger has another outcome already, that is the job's result: it was applied before its worker was lost.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog
from arq.constants import keep_cronjob_progress
from arq.cron import CronJob
from arq.jobs import Deserializer, SerializationError, Serializer, serialize_result
from arq.typing import StartupShutdown
from arq.utils import args_to_string, ms_to_datetime, truncate
from arq.worker import Function, JobExecutionFailed, Retry, RetryJob

from tidepool.engine import threads
from tidepool.engine.decoding import decode, name_of_function
from tidepool.engine.intake import Intake, JobFailed
from tidepool.engine.leaving import LeftJobs
from tidepool.engine.options import ArqContext, EngineOptions, Observer
from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import CommonReason, Failed, Outcome, Rejected, Release, RetryLater
from tidepool.logs import printable, text_of
from tidepool.queue.finisher import Done, Ending, Lacks, SetAside
from tidepool.queue.leases import MOST_LAPSES
from tidepool.queue.wire import now_ms

MAX_SHOWN = 200
"""Max characters of a job's id or a function's name in a log line or an error."""
_HOOK_DELAY_MS = 1000
"""Milliseconds until a job is due again that was put back because its start hook raised an error."""
_DELAY_SHOWN_S = 1.2
"""The log line of a job's start shows its delay if it is longer than this, as in arq."""

_Hook = Literal["on_job_start", "on_job_end", "after_job_end"]

failures = logging.getLogger("arq.worker")
log = logging.getLogger("arq.worker.job")
"""Logs arq's two lines about each job. They cost more than the job itself, so a worker shows them at DEBUG only.
As in arq, `log_results=False` hides results; the engine's option `log_arguments=False` hides arguments."""


class _Host(Protocol):
    """The attributes of the worker that an attempt reads, under arq's names."""

    tidepool_options: EngineOptions
    tidepool_observer: Observer | None
    ctx: ArqContext
    functions: dict[str, Function | CronJob]
    burst: bool
    tidepool_is_stopping: bool
    retry_jobs: bool
    allow_abort_jobs: bool
    max_tries: int
    job_timeout_s: float  # or None, like the next one: arq's annotations do not say so
    keep_result_s: float
    keep_result_forever: bool
    queue_name: str
    job_serializer: Serializer | None
    job_deserializer: Deserializer | None
    on_job_start: StartupShutdown | None
    on_job_end: StartupShutdown | None
    after_job_end: StartupShutdown | None
    log_results: bool


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a job cannot be run, in the forms that the ledger, clients and the log need."""

    outcome: Rejected | Failed
    """The outcome that the ledger records."""
    error: BaseException
    """The error that arq's clients get as the job's result."""
    line: str
    """The log line, the same as arq's, because people may have alerts on it."""
    lacks: Lacks | None = None
    """What this worker lacks that another may have; None if no worker can run the job."""
    was_run: bool = False
    """Whether its function has begun, and was cancelled."""


class Attempts:
    """Runs jobs for the worker *host*: each call of `make` is one attempt at one job."""

    def __init__(self, host: _Host) -> None:
        self._host = host
        options = host.tidepool_options
        self._intake: Intake | None = options.intake
        self._reports = host.tidepool_observer is not None or options.on_final_failure is not None
        self.left = self._intake.left if self._intake else LeftJobs(options.leave_s or 0.0)
        """The jobs that are left to other workers; the worker does not claim those that it skips."""

    async def make(self, job: Job) -> Ending:
        """Make one attempt at *job*, in the calling task, and return how the attempt ended: done, or to be run again.

        Errors that the job raises become part of what is returned. If the hook `on_job_start` raises an error, the job
        is not run, and is put back.
        """
        ending = await self._make(job)
        if self._reports and isinstance(ending, Done) and not job.is_typed:
            await self._report(job)
        return ending

    async def _make(self, job: Job) -> Ending:
        refusal = self.decode(job) or self._refusal(job)
        if refusal is not None:
            return await self._refuse(job, refusal)
        if not job.is_typed or self._has_hooks():
            job.context = self._context(job)
        if self._host.on_job_start and not await self.call_hook("on_job_start", job):
            return Release(_HOOK_DELAY_MS)
        try:
            self._log_start(job)
            if job.is_typed:
                ending = await self._run_typed(job)
            else:
                ending = self._succeeded(job, await self._run_function(job))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  (every end of a job is decided here)
            ending = await self._ending_of(job, error)
        if self._host.on_job_end:
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
            _log_hook(name, job)  # the function has ended, and how it did so stays
            return False
        except Exception:  # noqa: BLE001  (an application's own code)
            _log_hook(name, job)
            return False
        return True

    async def _report(self, job: Job) -> None:
        """Tell the observer that the job of a plain function has ended; call the hook for final failures."""
        options = self._host.tidepool_options
        if self._host.tidepool_observer is not None:
            try:
                self._host.tidepool_observer.ended(job)
            except Exception:  # noqa: BLE001  (how the job ended stays)
                structlog.get_logger(__name__).exception("observer.failed", job_id=_shown_id(job))
        if job.error is None or job.is_aborted or options.on_final_failure is None:
            return
        try:
            await options.on_final_failure(job.context or self._context(job), job.error)
        except (Exception, asyncio.CancelledError):  # noqa: BLE001  (an application's own code)
            _log_hook("on_final_failure", job)

    def _has_hooks(self) -> bool:
        host = self._host
        return bool(host.on_job_start or host.on_job_end or host.after_job_end)

    # ---------------------------------------------------------------- may it be run?

    def decode(self, job: Job) -> _Refusal | None:
        """Decode *job* and store its function and arguments in it; return why that is not possible, or None.

        A second call for the same job does nothing.
        """
        if job.enqueued_ms:
            return None
        if isinstance(job.payload, int):
            reason = f"is larger than {self._host.tidepool_options.max_job_bytes} bytes"
            line = f"job {_shown_id(job)} {reason}: {job.payload}"
            return _Refusal(_invalid(reason), JobExecutionFailed(f"job {reason}"), line, Lacks.ROOM)
        if job.payload is None:
            outcome = _invalid("has no content: it expired or was removed")
            return _Refusal(outcome, JobExecutionFailed("job expired"), f"job {_shown_id(job)} expired")
        try:
            decoded = decode(job.payload, self._host.job_deserializer)
        except SerializationError as error:
            line = f"deserializing job {_shown_id(job)} failed: {error.__cause__}"
            return _Refusal(_invalid(str(error.__cause__)), error, line, Lacks.DESERIALIZER)
        job.function, job.args, job.kwargs, first_attempt, job.enqueued_ms = decoded
        job.content = job.args[0] if len(job.args) == 1 and not job.kwargs else job.kwargs
        job.attempt = max(job.attempt, first_attempt or 0)
        max_kept = self._host.tidepool_options.max_kept_bytes
        job.is_large = max_kept is not None and len(job.payload) > max_kept
        return None

    def _refusal(self, job: Job) -> _Refusal | None:
        """Return why a decoded job may not be run (aborted, unknown function, too many tries), or None."""
        if job.is_aborted and self._host.allow_abort_jobs:
            return _aborted(job, asyncio.CancelledError(), f"{_since_s(job.enqueued_ms):6.2f}s", " before start")
        function = self._host.functions.get(job.function)
        if function is None:
            job.function = name = name_of_function(job.function)
            error = JobExecutionFailed(f"function {name!r} not found")
            line = f"job {_shown_id(job)}, function {name!r} not found"
            return _Refusal(_invalid("names no function that there is", is_newer=True), error, line, Lacks.FUNCTION)
        job.is_cron = isinstance(function, CronJob)
        job.is_typed = self._intake is not None and job.function in self._intake
        max_tries = self._host.max_tries if function.max_tries is None else function.max_tries
        if not job.is_typed:
            job.attempt += job.lapses  # it was perhaps run, and nothing but this count can tell
        if job.lapses >= MOST_LAPSES or (job.lapses > 0 and not (self._host.retry_jobs or job.is_typed)):
            reason = words = f"lost {job.lapses} workers while they ran it"
        elif job.attempt > max_tries:
            reason, words = f"max {max_tries} retries exceeded", f"max retries {max_tries} exceeded"
        else:
            return None
        line = f"{_since_s(job.enqueued_ms):6.2f}s ! {_shown_ref(job)} {words}"
        return _Refusal(Failed(reason), JobExecutionFailed(reason), line)

    async def _refuse(self, job: Job, refusal: _Refusal) -> Ending:
        """Record the outcome of a job that is not run, and return how its attempt ends."""
        job.forget_arguments()
        settled: Outcome | RetryLater | Release | None = None
        if self._intake is not None:
            settled = await self._intake.refuse(job, refusal.outcome, may_leave=not self._host.burst)
        elif refusal.lacks is not None and self._host.tidepool_options.leave_s is not None:
            return self._leave(job, refusal, refusal.lacks)
        if isinstance(settled, Release):
            return settled
        failures.warning("%s", refusal.line)
        if isinstance(settled, RetryLater):
            return settled
        if settled is None or isinstance(settled, Failed) or _is_abort(settled):
            return self._done(job, refusal.error, success=False, was_run=refusal.was_run)
        return self._done(job, settled.as_result(), success=True)

    def _leave(self, job: Job, refusal: _Refusal, lacks: Lacks) -> Release | SetAside:
        """Leave a job that this worker does not understand to others, or make it a dead letter if its time is over."""
        reason = printable(str(refusal.error.__cause__ or refusal.error), MAX_SHOWN)
        left = None if self._host.burst else self.left.leave(job, reason)
        return left or SetAside(lacks, reason, job.function if lacks is Lacks.FUNCTION else "")

    # ---------------------------------------------------------------- running it

    async def _run_typed(self, job: Job) -> Ending:
        """Run a job of a declared type through the intake, and return how the attempt ends."""
        assert self._intake is not None
        job.is_running = True
        try:
            settled = await self._intake.run(job, may_leave=not self._host.burst)
        finally:
            job.is_running = False
        if isinstance(settled, Failed):
            return self._failed(job, JobFailed(settled.error))
        if isinstance(settled, RetryLater):
            _log_retry(job, settled.delay_s)
        return settled if isinstance(settled, (RetryLater, Release)) else self._succeeded(job, settled.as_result())

    async def _run_function(self, job: Job) -> object:
        """Call a plain arq function, under its timeout if it has one, and return its result."""
        function = self._host.functions[job.function]
        timeout_s = self._host.job_timeout_s if function.timeout_s is None else function.timeout_s
        job.is_running = job.has_begun = True
        try:
            running = function.coroutine(job.context or {}, *job.args, **job.kwargs)
            job.forget_arguments()
            if timeout_s in (None, math.inf):
                return await running
            return await _timed(running, timeout_s)
        finally:
            job.is_running = False

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
        is_cancelled = isinstance(error, asyncio.CancelledError)
        if is_cancelled and job.is_aborted and self._host.allow_abort_jobs:
            return await self._refuse(job, _aborted(job, error, f"{_since_s(job.started_ms):6.2f}s"))
        if not self._host.retry_jobs or not isinstance(error, (Retry, RetryJob, asyncio.CancelledError)):
            return self._failed(job, error)
        if isinstance(error, Retry):
            later = RetryLater((error.defer_score or 0) / 1000)
            _log_retry(job, later.delay_s)
            return later
        if log.isEnabledFor(logging.INFO):
            log.info("%6.2fs ↻ %s cancelled, will be run again", _since_s(job.started_ms), _shown_ref(job))
        keeps_try = is_cancelled and self._host.tidepool_is_stopping and job.is_typed
        return Release() if keeps_try else RetryLater()

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
        extra = {"extra": _extra(error), "function": job.function[:MAX_SHOWN]}
        words = (_since_s(job.started_ms), _shown_ref(job), type(error).__name__, text_of(error))
        failures.error("%6.2fs ! %s failed, %s: %s", *words, exc_info=error, extra=extra)
        return self._done(job, error, success=False)

    def _succeeded(self, job: Job, result: object) -> Done:
        done = self._done(job, result, success=True)
        if log.isEnabledFor(logging.INFO):
            text = "" if result is None or not self._host.log_results else truncate(repr(result))
            log.info("%6.2fs ← %s ● %s", _since_s(job.started_ms), _shown_ref(job), text)
        return done

    def _done(self, job: Job, result: object, *, success: bool, was_run: bool = True) -> Done:
        """Return the ending of a job that is done, with the encoded result if results are kept.

        *result* is the error of a job that has failed. As in arq, the result of a job whose function was not run is
        kept for as long as the worker's own setting says, not the function's.
        """
        job.error = result if isinstance(result, BaseException) and not success else None
        function = self._host.functions.get(job.function) if was_run else None
        forever, keep_s = function and function.keep_result_forever, function and function.keep_result_s
        forever = self._host.keep_result_forever if forever is None else forever
        keep_s = (self._host.keep_result_s if keep_s is None else keep_s) or 0
        value = self._encode(job, result, success=success) if forever or keep_s else None
        mark_ms = keep_cronjob_progress * 1000 if job.is_cron else 0
        return Done(value or b"", 0 if forever else round(keep_s * 1000), success, mark_ms)

    def _encode(self, job: Job, result: object, *, success: bool) -> bytes | None:
        """Encode a result for arq's clients: without the job's arguments if it is too large, or an error in its place.

        Redis would cut the connection at a larger value, and no job of this process could be acknowledged any more.
        """
        most = self._host.tidepool_options.max_result_bytes
        value = self._encode_of_any_size(job, job.args, job.kwargs, result, success=success)
        if value is None or len(value) <= most:
            return value
        value = self._encode_of_any_size(job, (), {}, result, success=success)
        if value is None or len(value) <= most:
            return value
        text = f"unable to serialize result: it has {len(value)} bytes, and {most} may be kept"
        failures.warning("%s: %s", _shown_ref(job), text)
        return self._encode_of_any_size(job, (), {}, text, success=False)

    def _encode_of_any_size(
        self, job: Job, args: tuple[object, ...], kwargs: dict[str, object], result: object, *, success: bool
    ) -> bytes | None:
        """Encode a result. Characters of an id or a name that UTF-8 cannot express are escaped."""
        return serialize_result(
            *(job.function, args, kwargs, job.attempt, job.enqueued_ms, success, result),
            *(job.started_ms, now_ms(), _encodable(job.ref), self._host.queue_name),
            job_id=_encodable(job.queue_id),
            serializer=self._host.job_serializer,
        )

    def _log_start(self, job: Job) -> None:
        if log.isEnabledFor(logging.INFO):
            delayed_s = (job.started_ms - job.due_ms) / 1000
            extra = f" try={job.attempt}" if job.attempt > 1 else ""
            extra += f" delayed={delayed_s:0.2f}s" if delayed_s > _DELAY_SHOWN_S else ""
            waited_s = (job.started_ms - job.enqueued_ms) / 1000
            text = args_to_string(job.args, job.kwargs) if self._host.tidepool_options.log_arguments else "…"
            log.info("%6.2fs → %s(%s)%s", waited_s, _shown_ref(job), text, extra)


async def _timed(running: Awaitable[object], timeout_s: float) -> object:
    """Await *running* and return its result. Raises `TimeoutError` after *timeout_s* seconds.

    The timeout cancels the current task, so that no second task is needed.
    """
    task = asyncio.current_task()
    assert task is not None
    timed_out = False

    def time_out() -> None:
        nonlocal timed_out
        timed_out = True
        task.cancel(threads.TIMED_OUT)

    timer = asyncio.get_running_loop().call_later(timeout_s, time_out)
    try:
        return await running
    except asyncio.CancelledError:
        if not timed_out:
            raise
        task.uncancel()
        raise TimeoutError from None
    finally:
        timer.cancel()


def _invalid(reason: str, *, is_newer: bool = False) -> Rejected:
    return Rejected(CommonReason.INVALID, f"the job {reason}", is_newer)


def _aborted(job: Job, error: BaseException, time: str, when: str = "") -> _Refusal:
    line = f"{time} ⊘ {_shown_ref(job)} aborted{when}"
    return _Refusal(Rejected(CommonReason.ABORTED), error, line, was_run=not when)


def _is_abort(outcome: Outcome) -> bool:
    return isinstance(outcome, Rejected) and outcome.reason == str(CommonReason.ABORTED)


def _log_hook(name: str, job: Job) -> None:
    """Log the error that a hook has raised; to be called while it is handled."""
    structlog.get_logger(__name__).exception("hook.failed", hook=name, job_id=_shown_id(job))


def _log_retry(job: Job, delay_s: float) -> None:
    if log.isEnabledFor(logging.INFO):
        words = (_since_s(job.started_ms), _shown_ref(job), delay_s)
        log.info("%6.2fs ↻ %s retrying job in %0.2fs", *words)


def _extra(error: BaseException) -> object:
    """Return the details that an exception adds to its log line: its attribute or method `extra`, as in arq.

    None if it has another meaning there, so that reading or calling it raises an error.
    """
    try:
        extra = getattr(error, "extra", None)
        return extra() if callable(extra) else extra
    except Exception:  # noqa: BLE001  (an application's own code)
        return None


def _since_s(time_ms: int) -> float:
    return (now_ms() - time_ms) / 1000


def _shown_id(job: Job) -> str:
    """Return the job's id for a log line: other than ASCII characters escaped, cut to 200 characters."""
    return ascii(job.queue_id[:MAX_SHOWN])[1:-1][:MAX_SHOWN]


def _shown_ref(job: Job) -> str:
    return printable(job.ref, MAX_SHOWN)


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
