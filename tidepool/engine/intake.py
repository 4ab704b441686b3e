"""Runs jobs of declared types: from a claimed job to its outcome, and from the outcome to arq's result.

The engine calls `Intake.run` with the job itself. The content is validated, the job joins a batch, and its outcome is
waited for. The result that arq's `Job.result()` returns is a JSON object:

    {"status": "applied", "result": {"user_id": 7}}
    {"status": "rejected", "reason": "email_taken", "error": "another user has this email"}

The result of a failed job is the error `JobFailed`.
"""

import math
import time
from dataclasses import dataclass
from typing import Never, Protocol

import structlog
from arq.worker import Function, func

from tidepool.jobs.command import Command, is_newer
from tidepool.jobs.ids import MAX_ID_CHARACTERS
from tidepool.jobs.job import Job, JobTypes
from tidepool.jobs.outcomes import Applied, CommonReason, Failed, Outcome, Rejected, RetryLater
from tidepool.queue.leases import Release

log = structlog.get_logger(__name__)

_UNSETTLED_DELAY_S = 1.0
_FIRST_LEAVE_S, _LONGEST_LEAVE_S = 1.0, 5.0
"""Seconds before a job that was left to newer workers is looked at again: as long as it has been known, within these
bounds."""
_MAX_LEFT = 10_000
"""Jobs whose first sight is remembered."""
_FORGET_AFTER_S = 60.0
"""Seconds after a job's time is over: it has not come back here, and other workers have settled it."""
_MAX_NAME_CHARACTERS = 100
"""Of a function's name, as the ledger keeps it."""


class JobFailed(Exception):
    """The job was given up; the text says why. arq's clients get it as the job's result."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job cannot be run."""

    outcome: Rejected | Failed
    """For the ledger."""
    error: BaseException
    """The failed result that arq's clients read."""
    line: str
    """What arq's worker logs in this case, and people may watch for."""
    is_unknown: bool = False
    """Whether its function is not known here. A newer worker may know it."""


class _Batcher(Protocol):
    async def submit(self, job: Job[Command]) -> Outcome | RetryLater: ...


class Intake:
    """Runs the jobs of *types*, each up to *max_tries* times.

    Jobs that only a newer worker can understand are left to such workers for *leave_s* seconds, then rejected as
    invalid. Before any job is run, `open` is called with the batcher.
    """

    def __init__(self, types: JobTypes, *, max_tries: int, leave_s: float = 0.0) -> None:
        self._types = types
        self._max_tries = max_tries
        self._newer = NewerJobs(leave_s)
        self._batcher: _Batcher = _Closed()

    def open(self, batcher: _Batcher) -> None:
        """Submit jobs to *batcher* from now on."""
        self._batcher = batcher

    def __contains__(self, function: str) -> bool:
        """Return whether *function* is a declared job type."""
        return self._types.get(function) is not None

    async def run(self, job: Job[Command], *, may_leave: bool) -> Outcome | RetryLater | Release:
        """Return the job's outcome, in how many seconds to run it again, or that it is left to a newer worker.

        *may_leave*: whether it may be left. A worker that runs in a burst may not, since it would end without the job.
        """
        self._validate(job)
        if may_leave and isinstance(job.decided, Rejected) and is_newer(job.decided.detail):
            left = self._newer.leave(job.function, job.queue_id, job.decided.detail)
            if left is not None:
                return left
        job.forget_arguments()
        return await self._submit(job)

    async def refuse(self, job: Job[Command], refusal: Refusal, *, may_leave: bool) -> Outcome | RetryLater | Release:
        """Record the outcome of a job that cannot be run.

        Returns the outcome in the ledger, which is another one if the job was applied before its worker was lost.
        """
        job.function = _readable(job.function, _MAX_NAME_CHARACTERS)
        if may_leave and isinstance(refusal.outcome, Rejected) and refusal.is_unknown:
            left = self._newer.leave(job.function, job.queue_id, refusal.outcome.detail)
            if left is not None:
                return left
        job.decided = refusal.outcome
        return await self._submit(job)

    def _validate(self, job: Job[Command]) -> None:
        """Give the job its command, or the rejection of its arguments."""
        job_type = self._types.get(job.function)
        if job_type is None or (job.args and job.content is job.kwargs):
            job.decided = Rejected(CommonReason.INVALID, "takes its fields by name, or one object")
            return
        command = job_type.parse(job.content)
        if isinstance(command, Rejected):
            job.decided = command
        else:
            job.command = command

    async def _submit(self, job: Job[Command]) -> Outcome | RetryLater:
        job.is_last_attempt = job.attempt >= self._max_tries
        try:
            return await self._batcher.submit(job)
        except Exception:
            # Without an outcome in the ledger the job must not end, as it would with an exception.
            log.exception("job.unsettled", job_id=job.id, function=job.function)
            return RetryLater(_UNSETTLED_DELAY_S)


class _Closed:
    async def submit(self, job: Job[Command]) -> Never:
        raise RuntimeError(f"job {job.id} was run before the intake was opened")


class NewerJobs:
    """Leaves jobs that this version does not understand to newer workers, each for *leave_s* seconds.

    The time counts from when this worker first saw the job.
    """

    def __init__(self, leave_s: float) -> None:
        self._leave_s = leave_s
        self._seen: dict[str, float] = {}
        """When a job was first seen here, in seconds of the monotonic clock."""
        self._logged: set[str] = set()

    def leave(self, function: str, job_id: str, cause: str) -> Release | None:
        """Return how the job is put back into the queue, or None if its time is over."""
        now = time.monotonic()
        since = self._seen.get(job_id, now)
        if now - since >= self._leave_s:
            self._seen.pop(job_id, None)
            return None
        self._remember(job_id, since)
        if function not in self._logged and len(self._logged) < _MAX_LEFT:
            self._logged.add(function)
            shown_id = _readable(job_id, MAX_ID_CHARACTERS)
            log.warning("job.left", function=function, job_id=shown_id, cause=cause, for_s=self._leave_s)
        delay_s = min(max(now - since, _FIRST_LEAVE_S), _LONGEST_LEAVE_S, self._leave_s)
        return Release(int(delay_s * 1000))

    def _remember(self, job_id: str, since_s: float) -> None:
        """Note when a job was first seen, if there is room; otherwise its next sight is the first one."""
        oldest = next(iter(self._seen), None)
        if oldest is not None and time.monotonic() - self._seen[oldest] > self._leave_s + _FORGET_AFTER_S:
            del self._seen[oldest]
        if len(self._seen) < _MAX_LEFT or job_id in self._seen:
            self._seen[job_id] = since_s


def arq_functions(types: JobTypes) -> list[Function]:
    """Return the job types as functions for arq's settings, with no time limit and no limit of tries of arq's.

    The ledger counts the tries, since it must have a row of a job that is given up; and while the database is away a
    job waits as long as it must. The engine runs these jobs through `EngineOptions.intake`.
    """
    return [func(_run_without_intake, name=job_type.name, timeout=math.inf, max_tries=_NO_LIMIT) for job_type in types]


_NO_LIMIT = 1_000_000
"""Tries; the highest number that a job's envelope may begin with."""


async def _run_without_intake(*_args: object, **_fields: object) -> Never:
    raise RuntimeError("jobs of declared types need EngineOptions.intake")


def as_result(outcome: Applied | Rejected) -> dict[str, object]:
    """Return the result that arq's `Job.result()` returns for *outcome*."""
    if isinstance(outcome, Applied):
        return {"status": "applied", "result": outcome.result}
    return {"status": "rejected", "reason": outcome.reason, "error": outcome.detail}


def _readable(text: str, max_characters: int) -> str:
    """Return a name as the ledger can hold it: printable, and cut to its maximum."""
    return text[:max_characters] if text.isprintable() else ascii(text)[1:-1][:max_characters]
