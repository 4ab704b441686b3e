"""From one call of arq to a delivery, and from its outcome to what arq stores.

arq calls a coroutine per job. Ours validates the content, hands the delivery to the batcher and waits
for what became of it. The result that `Job.result()` returns is a JSON object:

    {"status": "applied", "result": {"user_id": 7}}
    {"status": "rejected", "reason": "email_taken", "error": "another user has this email"}

A failed job raises `JobFailed`, so that arq counts it as failed; a job that is to run again raises
arq's `Retry`.
"""

import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from typing import Any, cast

import structlog
from arq.worker import Function, Retry, func

from tidepool.engine.attempt import LARGE, UNKNOWN, UNRUNNABLE, Leave
from tidepool.jobs import ids as job_ids
from tidepool.jobs.command import Command, is_newer
from tidepool.jobs.job import JobTypes
from tidepool.jobs.outcomes import Applied, CommonReason, Failed, Outcome, Rejected, RetryLater
from tidepool.ledger.delivery import Delivery
from tidepool.queue.wire import now_ms

log = structlog.get_logger(__name__)

Submit = Callable[[Delivery], Awaitable[Outcome | RetryLater]]

_TRIES_ARE_OURS = 1_000_000
"""The ledger counts the tries: it must have a row of a job that is given up."""
_TIME_IS_OURS_S = math.inf
"""The same for time: while the database is away a job waits as long as it must."""
_UNSETTLED_DELAY_S = 1.0
_FIRST_LEAVE_S, _LONGEST_LEAVE_S = 1.0, 5.0
"""Before a job that was left is looked at again: as long as it has been known, within these bounds."""
_MOST_LEFT = 10_000
"""Jobs whose first sight is remembered."""
_FORGET_AFTER_S = 60.0
"""After a job's time is over: it has not come back here, and other workers have settled it."""
_MAX_NAME_CHARACTERS = 100


class JobFailed(Exception):
    """The job was given up; the text says why."""


class RetryBecause(Retry):
    """arq's `Retry`, with the cause of it for whoever looks at the job before it runs again."""

    def __init__(self, delay_s: float, cause: str) -> None:
        super().__init__(defer=delay_s)
        self.cause = cause


class Intake:
    """Runs the jobs of *types* through *submit*, as the functions that arq is given.

    Jobs that only a newer worker can understand are left to it for *leave_s* seconds, then rejected as invalid.
    """

    def __init__(self, types: JobTypes, submit: Submit, *, max_tries: int, leave_s: float = 0.0) -> None:
        self._types = types
        self._submit = submit
        self._max_tries = max_tries
        self._newer = NewerJobs(leave_s)

    async def run(self, function: str, call: dict[str, Any], args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
        """Run one job; *call* is arq's context of it. Raises `JobFailed` and arq's `Retry`."""
        command, content = self._parse(function, args, fields)
        if isinstance(command, Rejected) and command.detail and is_newer(command.detail):
            self._newer.leave(function, call, command.detail)
        if LARGE in call:
            content = None
            _release(args, fields)
        try:
            outcome = await self._submit(self._delivery(function, call, command, content))
        except Exception:
            # Without an outcome in the ledger the job must not end, as it would with an exception.
            log.exception("job.unsettled", job_id=call["job_id"], function=function)
            raise Retry(defer=_UNSETTLED_DELAY_S) from None
        return as_result(outcome)

    async def run_unrunnable(self, call: dict[str, Any], kind: str, function: str, reason: str, content: Any) -> Any:
        """Record the outcome of a job that the engine cannot run; see `tidepool.engine.attempt`.

        Returns the result where it has another end than it seems: it was applied before its worker was lost, say.
        """
        decided: dict[str, Rejected | Failed] = {
            "invalid": Rejected(CommonReason.INVALID, f"the job {reason}"),
            UNKNOWN: Rejected(CommonReason.INVALID, f"the job {reason}"),
            "aborted": Rejected(CommonReason.ABORTED),
            "failed": Failed(reason),
        }
        named = _readable(function, _MAX_NAME_CHARACTERS)
        if kind == UNKNOWN:
            self._newer.leave(named, call, f"the job {reason}")
        outcome = await self._submit(self._delivery(named, call, decided[kind], content))
        if isinstance(outcome, Rejected) and outcome.reason == str(CommonReason.ABORTED):
            return None
        with suppress(JobFailed):
            return as_result(outcome)

    def _parse(self, function: str, args: tuple[Any, ...], fields: dict[str, Any]) -> tuple[Command | Rejected, Any]:
        job_type = self._types.get(function)
        content: Any = args[0] if len(args) == 1 and not fields else fields
        if job_type is None or (args and content is fields):
            return Rejected(CommonReason.INVALID, "takes its fields by name, or one object"), fields
        return job_type.parse(content), content

    def _delivery(
        self, function: str, call: dict[str, Any], command: Command | Rejected | Failed, content: Any
    ) -> Delivery:
        enqueued_at: datetime = call["enqueue_time"]
        return Delivery(
            id=job_ids.ledger_id(call["job_id"]),
            function=function,
            command=command,
            content=content,
            attempt=call["job_try"],
            last_try=call["job_try"] >= self._max_tries,
            enqueued_at_ms=round(enqueued_at.timestamp() * 1000),
            due_at_ms=call["score"],
            taken_at_ms=now_ms(),
            taken_ns=time.perf_counter_ns(),
        )


def _release(args: tuple[Any, ...], fields: dict[str, Any]) -> None:
    """Empty the arguments of a large job, which several frames refer to: a valid command has what it needs of them."""
    for container in (*args, fields):
        if isinstance(container, (dict, list)):
            cast("Any", container).clear()


class NewerJobs:
    """Leaves jobs that this version does not understand to newer workers, each for *leave_s* seconds.

    They count from when this worker first saw the job.

    A worker that runs in a burst leaves none, since it ends when the queue is empty.
    """

    def __init__(self, leave_s: float) -> None:
        self._leave_s = leave_s
        self._seen: dict[str, float] = {}
        """When a job was first seen here, in seconds of the monotonic clock."""
        self._logged: set[str] = set()

    def leave(self, function: str, call: dict[str, Any], cause: str) -> None:
        """Raise `Leave` while the job's time is not over."""
        job_id, now = call["job_id"], time.monotonic()
        since = self._seen.get(job_id, now)
        if now - since >= self._leave_s or call.get("burst"):
            self._seen.pop(job_id, None)
            return
        self._remember(job_id, since)
        if function not in self._logged and len(self._logged) < _MOST_LEFT:
            self._logged.add(function)
            log.warning(
                "job.left",
                function=function,
                job_id=_readable(job_id, job_ids.MAX_ID_CHARACTERS),
                cause=cause,
                for_s=self._leave_s,
            )
        raise Leave(defer=min(max(now - since, _FIRST_LEAVE_S), _LONGEST_LEAVE_S, self._leave_s))

    def _remember(self, job_id: str, since_s: float) -> None:
        """Note when a job was first seen, if there is room; else it is seen for the first time later."""
        oldest = next(iter(self._seen), None)
        if oldest is not None and time.monotonic() - self._seen[oldest] > self._leave_s + _FORGET_AFTER_S:
            del self._seen[oldest]
        if len(self._seen) < _MOST_LEFT or job_id in self._seen:
            self._seen[job_id] = since_s


def arq_functions(types: JobTypes) -> list[Function]:
    """Return the functions that arq registers: one per kind of job, and the one for what cannot be run.

    They find the process's `Intake` in arq's context, where startup has put it.
    """
    coroutines: dict[str, Any] = {job_type.name: _runner(job_type.name) for job_type in types}
    coroutines[UNRUNNABLE] = _run_unrunnable
    return [
        func(coroutine, name=name, timeout=_TIME_IS_OURS_S, max_tries=_TRIES_ARE_OURS)
        for name, coroutine in coroutines.items()
    ]


def as_result(outcome: Outcome | RetryLater) -> dict[str, Any]:
    """Return what `Job.result()` answers for *outcome*. Raises `JobFailed`, and arq's `Retry` where there is none."""
    if isinstance(outcome, Applied):
        return {"status": "applied", "result": outcome.result}
    if isinstance(outcome, Rejected):
        return {"status": "rejected", "reason": outcome.reason, "error": outcome.detail}
    if isinstance(outcome, Failed):
        raise JobFailed(outcome.error)
    raise RetryBecause(outcome.delay_s, outcome.cause)


def _runner(function: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def run(ctx: dict[str, Any], /, *args: Any, **fields: Any) -> Any:
        return await ctx["intake"].run(function, ctx, args, fields)

    return run


async def _run_unrunnable(ctx: dict[str, Any], /, *args: Any) -> Any:
    return await ctx["intake"].run_unrunnable(ctx, *args)


def _readable(text: str, most: int) -> str:
    """Return a name as the ledger can hold it: printable, and not endless."""
    return text[:most] if text.isprintable() else ascii(text)[1:-1][:most]
