"""One attempt at one claimed job: from its bytes to what is to become of it.

The meaning is arq's, step by step: decode, look the function up, count the tries, run it under its
timeout with the hooks around it, and decide by how it ended:

| the function …                       | the job                                              |
|--------------------------------------|------------------------------------------------------|
| returns                              | is done, with the result                             |
| raises `Retry`                       | runs again, after the delay; a try is spent          |
| raises `Leave`                       | is put back for a newer worker; no try is spent      |
| raises `CancelledError`, `RetryJob`  | runs again at once; a try is spent                   |
| is cancelled by an abort             | is done, with the cancellation as its failed result  |
| is cancelled because the worker stops| is given back; no try is spent                       |
| raises anything else, or takes too long | is done, with the error as its failed result      |

What cannot be run (no content, no sense, no such function, three workers lost with it) is done, with
the reason as its failed result. Where the function `UNRUNNABLE` is registered it is told of each such
job first, so that the service's ledger has an outcome of it, too; where it returns something, that is the
job's result: it may have been applied before its worker was lost.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arq.constants import keep_cronjob_progress
from arq.cron import CronJob
from arq.jobs import SerializationError, deserialize_job_raw, serialize_result
from arq.utils import args_to_string, ms_to_datetime, truncate
from arq.worker import Function, JobExecutionFailed, Retry, RetryJob

from tidepool.queue.faults import shown_text
from tidepool.queue.leases import MOST_LAPSES, Claimed, Finish
from tidepool.queue.wire import now_ms

if TYPE_CHECKING:
    from tidepool.engine.worker import Worker

UNRUNNABLE = "tidepool:unrunnable"
"""The function that is told of jobs that cannot be run: (kind, function, reason, content)."""

LARGE = "tidepool:large"
"""In the context of a job whose arguments are not kept; see `EngineOptions.max_kept_bytes`."""
UNKNOWN = "unknown"
"""The kind of a job whose function is not known here; a newer worker may know it."""
_MOST_SHOWN = 200
"""Characters of an id or a name of the sender's in a line or an error."""

failures = logging.getLogger("arq.worker")
log = logging.getLogger("arq.worker.job")
"""arq's two lines about each job. They cost more than the job itself: the service switches them off, but at DEBUG.
As in arq, `log_results=False` hides results; arguments are hidden by the option `log_arguments` of the engine."""


class Leave(Retry):
    """A function raises it to put its job back for a newer worker after the delay, without spending a try."""


@dataclass(slots=True)
class Call:
    """What a job's bytes say: which function to call, with what."""

    claimed: Claimed
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    job_try: int
    enqueue_time_ms: int
    function: Function | CronJob | None = None
    is_large: bool = False
    """Whether its arguments are not kept any longer than they are needed."""

    @property
    def is_cron(self) -> bool:
        """Whether it is a run of a cron job."""
        return isinstance(self.function, CronJob)

    @property
    def shown_id(self) -> str:
        """The job's id in log lines, however it was made up and however long it is."""
        return ascii(self.claimed.id[:_MOST_SHOWN])[1:-1][:_MOST_SHOWN]

    @property
    def ref(self) -> str:
        """The job's name in its result."""
        return self.name if self.is_cron else f"{self.claimed.id}:{self.name}"

    @property
    def shown(self) -> str:
        """The job's name in log lines: that of the result, as far as it can be printed and has an end."""
        return shown_text(self.ref)

    def forget_arguments(self) -> None:
        """Let go of the arguments of a large job: decoded they may take fifty times the memory of its content."""
        if self.is_large:
            assert isinstance(self.claimed.payload, bytes)
            self.args, self.kwargs = (f"left out: {len(self.claimed.payload)} bytes",), {}


class Unrunnable(Exception):
    """The job cannot be run.

    *kind* is invalid, unknown, failed or aborted; *error* is the failed result that arq's clients read; *line* is
    what arq's worker logs in that case, and people may watch for.
    """

    def __init__(self, kind: str, call: Call, reason: str, error: BaseException, line: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.call = call
        self.error = error
        self.line = line


async def perform(worker: "Worker", claimed: Claimed, task: asyncio.Task[None]) -> Finish:
    """Make one attempt, in *task*; returns what is to become of the job."""
    start_ms = now_ms()
    try:
        call = _read(worker, claimed)
    except Unrunnable as error:
        return await _end_unrunnable(worker, error, start_ms)
    return await _attempt(worker, call, task, start_ms)


def _read(worker: "Worker", claimed: Claimed) -> Call:
    """Decode the job and find its function. Raises `Unrunnable`."""
    call = Call(claimed, "<unknown>", (), {}, claimed.failed_tries + 1, 0)
    if isinstance(claimed.payload, int):
        reason = f"is larger than {worker.options.max_job_bytes} bytes"
        line = f"job {call.shown_id} {reason}: {claimed.payload}"
        raise Unrunnable("invalid", call, reason, JobExecutionFailed(f"job {reason}"), line)
    if claimed.payload is None:
        reason, line = "has no content: it expired or was removed", f"job {call.shown_id} expired"
        raise Unrunnable("invalid", call, reason, JobExecutionFailed("job expired"), line)
    try:
        decoded = deserialize_job_raw(claimed.payload, deserializer=worker.job_deserializer)
    except SerializationError as error:
        line = f"deserializing job {call.shown_id} failed: {error.__cause__}"
        raise Unrunnable("invalid", call, str(error.__cause__), error, line) from error
    call.name, call.args, call.kwargs, enqueued_try, call.enqueue_time_ms = decoded
    kept = worker.options.max_kept_bytes
    call.is_large = kept is not None and len(claimed.payload) > kept
    call.job_try = max(call.job_try, enqueued_try or 0)
    if claimed.aborted and worker.allow_abort_jobs:
        line = f"{_since_s(call.enqueue_time_ms):6.2f}s ⊘ {call.shown} aborted before start"
        raise Unrunnable("aborted", call, "was aborted", asyncio.CancelledError(), line)
    call.function = worker.functions.get(call.name) if call.name != UNRUNNABLE else None  # ours to call, nobody else's
    if call.function is None:
        call.name = call.name[:_MOST_SHOWN]
        line = f"job {call.shown_id}, function {call.name!r} not found"
        raise Unrunnable(UNKNOWN, call, "names no function that there is", _not_found(call.name), line)
    _refuse_hopeless(worker, call)
    return call


def _refuse_hopeless(worker: "Worker", call: Call) -> None:
    own = call.function.max_tries if call.function else None
    most = worker.max_tries if own is None else own
    if call.claimed.lapses >= MOST_LAPSES:
        text = said = f"lost {call.claimed.lapses} workers while they ran it"
    elif call.job_try > most:
        text, said = f"max {most} retries exceeded", f"max retries {most} exceeded"
    else:
        return
    line = f"{_since_s(call.enqueue_time_ms):6.2f}s ! {call.shown} {said}"
    raise Unrunnable("failed", call, text, JobExecutionFailed(text), line)


async def _end_unrunnable(worker: "Worker", error: Unrunnable, start_ms: int) -> Finish:
    call = error.call
    content = None if call.is_large else call.kwargs or (call.args[0] if len(call.args) == 1 else None)
    call.forget_arguments()
    told = worker.functions.get(UNRUNNABLE)
    if told is not None:
        try:
            answer = await told.coroutine(_context(worker, call), error.kind, call.name, str(error), content)
        except Leave as leave:
            worker.jobs_retried += 1
            return _left(call, leave)
        except Retry as retry:
            failures.warning("%s", error.line)
            return _again(call, retry.defer_score, getattr(retry, "cause", ""))
        failures.warning("%s", error.line)
        if answer is not None:
            worker.jobs_complete += 1
            return _done(worker, call, start_ms, answer, success=True)
    else:
        failures.warning("%s", error.line)
    worker.jobs_failed += 1
    return _done(worker, call, start_ms, error.error, success=False)


async def _attempt(worker: "Worker", call: Call, task: asyncio.Task[None], start_ms: int) -> Finish:
    """Run the function with its hooks, and decide by how it ended."""
    context = _context(worker, call)
    try:
        if worker.on_job_start:
            await worker.on_job_start(context)
        _log_start(worker, call, start_ms)
        result = await _run_limited(worker, call, task, context)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  (every end of a job is decided here)
        finish = await _after_error(worker, call, start_ms, error)
    else:
        worker.jobs_complete += 1
        finish = _done(worker, call, start_ms, result, success=True)
        if log.isEnabledFor(logging.INFO):
            text = "" if result is None or not worker.log_results else truncate(repr(result))
            log.info("%6.2fs ← %s ● %s", (now_ms() - start_ms) / 1000, call.shown, text)
    if worker.on_job_end:
        await worker.on_job_end(context)
    return finish


async def _run_limited(worker: "Worker", call: Call, task: asyncio.Task[None], context: dict[Any, Any]) -> Any:
    """Run the function under its timeout, if it has one."""
    function = call.function
    assert function is not None
    timeout_s = worker.job_timeout_s if function.timeout_s is None else function.timeout_s
    worker.job_tasks[call.claimed.id] = task
    try:
        running = function.coroutine(context, *call.args, **call.kwargs)
        call.forget_arguments()
        if timeout_s in (None, math.inf):
            return await running
        return await _timed(running, worker.loop, timeout_s, task)
    finally:
        worker.job_tasks.pop(call.claimed.id, None)


async def _timed(
    running: Awaitable[Any], loop: asyncio.AbstractEventLoop, timeout_s: float, task: asyncio.Task[None]
) -> Any:
    """Await *running*, and cancel this very *task* when time is up, which costs a timer and no task."""
    timed_out = False

    def time_out() -> None:
        nonlocal timed_out
        timed_out = True
        task.cancel()

    timer = loop.call_later(timeout_s, time_out)
    try:
        return await running
    except asyncio.CancelledError:
        if not timed_out:
            raise
        task.uncancel()
        raise TimeoutError from None
    finally:
        timer.cancel()


async def _after_error(worker: "Worker", call: Call, start_ms: int, error: BaseException) -> Finish:
    job_id, seconds = call.claimed.id, (now_ms() - start_ms) / 1000
    if isinstance(error, asyncio.CancelledError) and job_id in worker.aborting_tasks:
        worker.aborting_tasks.discard(job_id)
        line = f"{seconds:6.2f}s ⊘ {call.shown} aborted"
        return await _end_unrunnable(worker, Unrunnable("aborted", call, "was aborted", error, line), start_ms)
    if worker.retry_jobs and isinstance(error, (Retry, RetryJob, asyncio.CancelledError)):
        worker.jobs_retried += 1
        if isinstance(error, asyncio.CancelledError) and worker.is_stopping:
            log.info("%6.2fs ↻ %s cancelled, will be run again", seconds, call.shown)
            return Finish(job_id, "release", owner=call.claimed.owner)
        if isinstance(error, Leave):
            return _left(call, error)
        defer_ms = error.defer_score if isinstance(error, Retry) else None
        if isinstance(error, Retry):
            log.info("%6.2fs ↻ %s retrying job in %0.2fs", seconds, call.shown, (defer_ms or 0) / 1000)
        else:
            log.info("%6.2fs ↻ %s cancelled, will be run again", seconds, call.shown)
        return _again(call, defer_ms, getattr(error, "cause", ""))
    line = "%6.2fs ! %s failed, %s: %s"
    extra = {"extra": _extra(error), "function": call.name[:_MOST_SHOWN]}
    failures.error(line, seconds, call.shown, type(error).__name__, error, exc_info=error, extra=extra)
    worker.jobs_failed += 1
    return _done(worker, call, start_ms, error, success=False)


def _extra(error: BaseException) -> Any:
    """Return what an exception wants to be logged with it: its attribute or method `extra`, as in arq."""
    extra = getattr(error, "extra", None)
    return extra() if callable(extra) else extra


def _not_found(name: str) -> JobExecutionFailed:
    return JobExecutionFailed(f"function {name!r} not found")


def _since_s(time_ms: int) -> float:
    return (now_ms() - time_ms) / 1000


def _again(call: Call, defer_ms: int | None, cause: object = "") -> Finish:
    """Return the finish of a job that runs again; *cause* is kept for whoever looks at it meanwhile."""
    value = f"{call.job_try} {cause}".strip().encode("utf-8", "backslashreplace")
    return Finish(call.claimed.id, "again", value, defer_ms or 0, owner=call.claimed.owner)


def _left(call: Call, leave: Leave) -> Finish:
    return Finish(call.claimed.id, "release", ms=leave.defer_score or 0, owner=call.claimed.owner)


def _done(worker: "Worker", call: Call, start_ms: int, result: Any, *, success: bool) -> Finish:
    """Return the finish of an ended job, with its result as arq's clients read it, where it is kept."""
    function = call.function
    forever, kept_s = function and function.keep_result_forever, function and function.keep_result_s
    forever = worker.keep_result_forever if forever is None else forever
    kept_s = worker.keep_result_s if kept_s is None else kept_s
    value = _result(worker, call, start_ms, result, success=success) if forever or kept_s else None
    return Finish(
        id=call.claimed.id,
        how="done",
        value=value or b"",
        ms=0 if forever else round((kept_s or 0) * 1000),
        keep_ms=keep_cronjob_progress * 1000 if call.is_cron else 0,
        tried=call.claimed.failed_tries > 0,
        owner=call.claimed.owner,
    )


def _result(worker: "Worker", call: Call, start_ms: int, result: Any, *, success: bool) -> bytes | None:
    """Encode a result; what of an id or a name is no UTF-8 is escaped, since no serializer of text takes it."""
    return serialize_result(
        call.name,
        call.args,
        call.kwargs,
        call.job_try,
        call.enqueue_time_ms,
        success,
        result,
        start_ms,
        now_ms(),
        _encodable(call.ref),
        worker.queue_name,
        job_id=_encodable(call.claimed.id),
        serializer=worker.job_serializer,
    )


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _context(worker: "Worker", call: Call) -> dict[Any, Any]:
    context = {
        **worker.ctx,
        "job_id": call.claimed.id,
        "job_try": call.job_try,
        "enqueue_time": ms_to_datetime(call.enqueue_time_ms),
        "score": call.claimed.due_ms,
    }
    if call.is_large:
        context[LARGE] = True
    return context


def _log_start(worker: "Worker", call: Call, start_ms: int) -> None:
    if log.isEnabledFor(logging.INFO):
        delayed_s = (start_ms - call.claimed.due_ms) / 1000
        extra = f" try={call.job_try}" if call.job_try > 1 else ""
        extra += f" delayed={delayed_s:0.2f}s" if delayed_s > 1.2 else ""  # noqa: PLR2004  (arq's)
        waited_s = (start_ms - call.enqueue_time_ms) / 1000
        text = args_to_string(call.args, call.kwargs) if worker.options.log_arguments else "…"
        log.info("%6.2fs → %s(%s)%s", waited_s, call.shown, text, extra)
