"""Runs jobs of declared types: from a claimed job to its outcome.

The engine calls `Intake.run` with the job itself. The arguments are validated, the job joins a batch, and its outcome
is waited for. The result that arq's `Job.result()` returns is a JSON object:

    {"status": "applied", "result": {"user_id": 7}}
    {"status": "rejected", "reason": "email_taken", "error": "another user has this email"}

The result of a failed job is the error `JobFailed`.
"""

import math
import time
from typing import Never, Protocol

import structlog
from arq.worker import Function, func

from tidepool.jobs.ids import MAX_ID_CHARACTERS
from tidepool.jobs.job import Job, JobTypes
from tidepool.jobs.outcomes import CommonReason, Failed, Outcome, Rejected, RetryLater
from tidepool.queue.leases import Release

log = structlog.get_logger(__name__)

_UNSETTLED_DELAY_S = 1.0
"""Before a job is run again whose outcome could not be stored because of an unexpected error."""
_FIRST_LEAVE_S, _LONGEST_LEAVE_S = 1.0, 5.0
"""Bounds of the delay before a job that is left to newer workers is looked at again: so long as it has been known."""
_MAX_LEFT = 10_000
"""Jobs left to newer workers that are remembered with the time when they were seen first."""
_FORGET_AFTER_S = 60.0
"""From the end of a job's time until it is forgotten: it has not come back, so other workers have settled it."""
_MAX_TRIES = 1_000_000
"""The highest number of an attempt that a job in the queue may begin with, so that arq's count never ends a job."""
_MAX_NAME_CHARACTERS = 100
"""Of a function's name, as the ledger keeps it."""


class JobFailed(Exception):
    """The job was given up; the text says why. arq's clients get it as the job's result."""


class _Batcher(Protocol):
    async def submit(self, job: Job) -> Outcome | RetryLater: ...


class Intake:
    """Runs the jobs of *types*, each up to *max_tries* times.

    Jobs that only a newer worker can understand are left to such workers for *leave_s* seconds, then rejected as
    invalid. Before any job is run, `open` is called with the batcher.
    """

    def __init__(self, types: JobTypes, *, max_tries: int, leave_s: float = 0.0) -> None:
        self._types = types
        self._max_tries = max_tries
        self._newer = _NewerJobs(leave_s)
        self._batcher: _Batcher = _Closed()

    def open(self, batcher: _Batcher) -> None:
        """Submit jobs to *batcher* from now on."""
        self._batcher = batcher

    def __contains__(self, function: str) -> bool:
        """Return whether *function* is a declared job type."""
        return self._types.get(function) is not None

    def arq_functions(self) -> list[Function]:
        """Return the job types as functions for arq's settings, without limits of arq's.

        The ledger counts the attempts, since it must have a row of a job that is given up, and while the database is
        away a job waits as long as it must.
        """
        names = [job_type.name for job_type in self._types]
        return [func(_run_without_intake, name=name, timeout=math.inf, max_tries=_MAX_TRIES) for name in names]

    async def run(self, job: Job, *, may_leave: bool) -> Outcome | RetryLater | Release:
        """Return the job's outcome, in how many seconds to run it again, or that it is left to a newer worker.

        *may_leave*: whether it may be left. A worker that runs in a burst may not, since it would end without the job.
        """
        self._validate(job)
        job.forget_arguments()
        left = self._newer.leave(job) if may_leave else None
        return left or await self._submit(job)

    async def refuse(self, job: Job, outcome: Rejected | Failed, *, may_leave: bool) -> Outcome | RetryLater | Release:
        """Record the *outcome* of a job that cannot be run; otherwise as `run`.

        Returns the outcome in the ledger, which is another one if the job was applied before its worker was lost.
        """
        job.function = _readable(job.function, _MAX_NAME_CHARACTERS)
        job.decided = outcome
        left = self._newer.leave(job) if may_leave else None
        return left or await self._submit(job)

    def _validate(self, job: Job) -> None:
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

    async def _submit(self, job: Job) -> Outcome | RetryLater:
        job.is_last_attempt = job.attempt >= self._max_tries
        try:
            return await self._batcher.submit(job)
        except Exception:
            # Without an outcome in the ledger the job must not end, as it would with an exception.
            log.exception("job.unsettled", job_id=job.id, function=job.function)
            return RetryLater(_UNSETTLED_DELAY_S)


class _Closed:
    async def submit(self, job: Job) -> Never:
        raise RuntimeError(f"job {job.id} was run before the intake was opened")


class _NewerJobs:
    """Leaves jobs that this version does not understand to newer workers, each for *leave_s* seconds.

    The time counts from when this worker first saw the job.
    """

    def __init__(self, leave_s: float) -> None:
        self._leave_s = leave_s
        self._seen: dict[str, float] = {}
        """When a job was first seen here, in seconds of the monotonic clock."""
        self._logged: set[str] = set()

    def leave(self, job: Job) -> Release | None:
        """Return how the job is put back into the queue; None if it is no such job, or its time is over."""
        if not isinstance(job.decided, Rejected) or not job.decided.is_newer:
            return None
        now = time.monotonic()
        since = self._seen.get(job.queue_id, now)
        if now - since >= self._leave_s:
            self._seen.pop(job.queue_id, None)
            return None
        self._remember(job.queue_id, since)
        if job.function not in self._logged and len(self._logged) < _MAX_LEFT:
            self._logged.add(job.function)
            shown_id, cause = _readable(job.queue_id, MAX_ID_CHARACTERS), job.decided.detail
            log.warning("job.left", function=job.function, job_id=shown_id, cause=cause, for_s=self._leave_s)
        delay_s = min(max(now - since, _FIRST_LEAVE_S), _LONGEST_LEAVE_S, self._leave_s)
        return Release(int(delay_s * 1000))

    def _remember(self, job_id: str, since_s: float) -> None:
        """Note when a job was first seen, if there is room; otherwise its next sight is the first one."""
        oldest = next(iter(self._seen), None)
        if oldest is not None and time.monotonic() - self._seen[oldest] > self._leave_s + _FORGET_AFTER_S:
            del self._seen[oldest]
        if len(self._seen) < _MAX_LEFT or job_id in self._seen:
            self._seen[job_id] = since_s


async def _run_without_intake(*_args: object, **_fields: object) -> Never:
    raise RuntimeError("jobs of declared types need EngineOptions.intake")


def _readable(text: str, max_characters: int) -> str:
    """Return a name as the ledger can hold it: printable, and cut to its maximum."""
    return text[:max_characters] if text.isprintable() else ascii(text)[1:-1][:max_characters]
