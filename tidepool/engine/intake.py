"""Runs jobs of declared types: from a claimed job to its outcome.

The engine calls `Intake.run` with a job that this worker has claimed. `Intake.run` validates the arguments, submits the
job to the batcher (which gathers jobs into transactions), and waits for the outcome. The result that arq's
`Job.result()` returns is a JSON object:

    {"status": "applied", "result": {"user_id": 7}}
    {"status": "rejected", "reason": "email_taken", "error": "another user has this email"}

The result of a failed job is the error `JobFailed`.
"""

import math
from typing import Never, Protocol

import structlog
from arq.worker import Function, func

from tidepool.engine.leaving import LeftJobs
from tidepool.jobs.job import Job, JobTypes
from tidepool.jobs.outcomes import CommonReason, Failed, Outcome, Rejected, Release, RetryLater

log = structlog.get_logger(__name__)

_UNSETTLED_DELAY_S = 1.0
"""Seconds before a job is run again if an unexpected error kept its outcome from being stored."""
_MAX_TRIES = 1_000_000
"""arq's limit of attempts, set so high that only the ledger's limit ends a job."""
_MAX_NAME_CHARACTERS = 100
"""Max characters of a function's name in the ledger."""


class JobFailed(Exception):
    """The job has failed; the text says why. arq's clients get this error as the job's result."""


class _Batcher(Protocol):
    async def submit(self, job: Job) -> Outcome | RetryLater: ...


class Intake:
    """Runs the jobs of the declared job types *types*, each up to *max_tries* times.

    A job of an unknown type, or one whose only fault is unknown fields, is left to workers of a newer version for
    *leave_s* seconds, then rejected as invalid. Call `open` before any job is run.
    """

    def __init__(self, types: JobTypes, *, max_tries: int, leave_s: float = 0.0) -> None:
        self._types = types
        self._max_tries = max_tries
        self.left = LeftJobs(leave_s)
        """The jobs that were left to workers of a newer version."""
        self._batcher: _Batcher = _Closed()

    def open(self, batcher: _Batcher) -> None:
        """Set the *batcher* that jobs are submitted to from now on. A batcher gathers jobs into transactions."""
        self._batcher = batcher

    def __contains__(self, function: str) -> bool:
        """Return whether *function* is the name of a declared job type."""
        return self._types.get(function) is not None

    def arq_functions(self) -> list[Function]:
        """Return the job types as functions for arq's settings, without arq's limits of time and attempts.

        The ledger limits the attempts instead, since it must have a row for each failed job; and while PostgreSQL is
        unavailable, jobs wait without a limit.
        """
        names = [job_type.name for job_type in self._types]
        return [func(_run_without_intake, name=name, timeout=math.inf, max_tries=_MAX_TRIES) for name in names]

    async def run(self, job: Job, *, may_leave: bool) -> Outcome | RetryLater | Release:
        """Run *job* and return its outcome; or `RetryLater`, with a delay; or `Release`, to leave it to a newer worker.

        *may_leave* is whether the job may be left to a newer worker. It is False in burst mode, where the worker would
        end without the job.
        """
        self._validate(job)
        job.forget_arguments()
        return self._leave(job, may_leave=may_leave) or await self._submit(job)

    async def refuse(self, job: Job, outcome: Rejected | Failed, *, may_leave: bool) -> Outcome | RetryLater | Release:
        """Store *outcome* in the ledger for *job*, which cannot be run, such as one whose content in Redis is invalid.

        The job's handler is not called. Returns what `run` returns: the outcome that the ledger has for the job, or
        `RetryLater`, or `Release` if *may_leave* and a newer worker may understand the job. The returned outcome is
        another one than *outcome* if the job was applied earlier by a worker that was lost before it could report that.
        """
        job.function = _readable(job.function, _MAX_NAME_CHARACTERS)
        job.decided = outcome
        return self._leave(job, may_leave=may_leave) or await self._submit(job)

    def _leave(self, job: Job, *, may_leave: bool) -> Release | None:
        if not may_leave or not isinstance(job.decided, Rejected) or not job.decided.is_newer:
            return None
        return self.left.leave(job, job.decided.detail)

    def _validate(self, job: Job) -> None:
        """Validate the job's arguments; store the command in the job, or the rejection if they are invalid."""
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
        job.set_key(self._types.get(job.function))
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


async def _run_without_intake(*_args: object, **_fields: object) -> Never:
    raise RuntimeError("jobs of declared types need EngineOptions.intake")


def _readable(text: str, max_characters: int) -> str:
    """Return *text* as the ledger can store it: unprintable characters escaped, cut to *max_characters*."""
    return text[:max_characters] if text.isprintable() else ascii(text)[1:-1][:max_characters]
