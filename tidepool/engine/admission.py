"""Decides whether a claimed job can be run: decodes it, checks its function, tries and lost workers, validates it.

It also gives the names under which workers announce which jobs they understand.
"""

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from arq.cron import CronJob
from arq.jobs import Deserializer, SerializationError, deserialize_job_raw
from arq.worker import JobExecutionFailed

from tidepool.engine.host import Host
from tidepool.engine.lines import shown_id, shown_ref, since_s
from tidepool.jobs.job import Job
from tidepool.jobs.job_type import JobTypes
from tidepool.jobs.outcomes import CommonReason, Failed, Rejected
from tidepool.queue.finisher import Lacks
from tidepool.queue.leases import MOST_LAPSES
from tidepool.queue.wire import LATEST_MS, receive

_MAX_NAME_CHARACTERS = 200
_LARGEST = 1_000_000
"""The largest number of an attempt that is believed."""

_Decoded: TypeAlias = tuple[str, tuple[object, ...], dict[str, object], int | None, int, bool | None]


@dataclass(frozen=True, slots=True)
class Refusal:
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

    @classmethod
    def of_abort(cls, job: Job, error: BaseException) -> "Refusal":
        """Return the refusal of a job that a client has aborted while its function ran, which ended with *error*."""
        line = f"{since_s(job.started_ms):6.2f}s ⊘ {shown_ref(job)} aborted"
        return cls(Rejected(CommonReason.ABORTED), error, line, was_run=True)

    @classmethod
    def of_abort_before_start(cls, job: Job) -> "Refusal":
        """Return the refusal of a job that a client has aborted before it was run."""
        line = f"{since_s(job.enqueued_ms):6.2f}s ⊘ {shown_ref(job)} aborted before start"
        return cls(Rejected(CommonReason.ABORTED), asyncio.CancelledError(), line)


class Admission:
    """Decides which jobs the worker *host* can run."""

    def __init__(self, host: Host) -> None:
        self._host = host
        typed = host.tidepool_options.typed
        self._types = typed.types if typed else JobTypes(())

    def refusal(self, job: Job) -> Refusal | None:
        """Return why *job* may not be run, or None; decodes it first if that is not done yet."""
        return self.decode(job) or self._refusal_of_decoded(job)

    def decode(self, job: Job) -> Refusal | None:
        """Decode *job* and store its function and arguments in it; return why that is not possible, or None.

        A second call for the same job does nothing.
        """
        if job.enqueued_ms:
            return None
        if isinstance(job.payload, int):
            reason = f"is larger than {self._host.tidepool_options.max_job_bytes} bytes"
            line = f"job {shown_id(job)} {reason}: {job.payload}"
            return Refusal(_invalid(reason), JobExecutionFailed(f"job {reason}"), line, Lacks.ROOM)
        if job.payload is None:
            outcome = _invalid("has no content: it expired or was removed")
            return Refusal(outcome, JobExecutionFailed("job expired"), f"job {shown_id(job)} expired")
        try:
            decoded = _decode(job.payload, self._host.job_deserializer)
        except SerializationError as error:
            line = f"deserializing job {shown_id(job)} failed: {error.__cause__}"
            return Refusal(_invalid(str(error.__cause__)), error, line, Lacks.DESERIALIZER)
        job.function, job.args, job.kwargs, first_attempt, job.enqueued_ms, job.identity = decoded
        job.content = job.args[0] if len(job.args) == 1 and not job.kwargs else job.kwargs
        job.attempt = max(job.attempt, first_attempt or 0)
        max_kept = self._host.tidepool_options.max_kept_bytes
        job.is_large = max_kept is not None and len(job.payload) > max_kept
        return None

    def validate(self, job: Job) -> None:
        """Validate a typed job's arguments; store the command in the job, or the rejection if they are invalid."""
        job_type = self._types.get(job.function)
        assert job_type is not None, "the job is a typed one"
        try:
            job.content = job_type.content_of(job.args, job.kwargs)
        except TypeError as error:
            job.decided = Rejected(CommonReason.INVALID, str(error))
            return
        command = job_type.parse(job.content)
        if isinstance(command, Rejected):
            job.decided = command
        else:
            job.command = command

    def _refusal_of_decoded(self, job: Job) -> Refusal | None:
        """Return why a decoded job may not be run (aborted, unknown function, too many tries), or None."""
        if job.is_aborted and self._host.allow_abort_jobs:
            return Refusal.of_abort_before_start(job)
        function = self._host.functions.get(job.function)
        if function is None:
            job.function = name = name_of_function(job.function)
            error = JobExecutionFailed(f"function {name!r} not found")
            line = f"job {shown_id(job)}, function {name!r} not found"
            return Refusal(_invalid("names no function that there is", is_newer=True), error, line, Lacks.FUNCTION)
        job.is_cron = isinstance(function, CronJob)
        job_type = self._types.get(job.function)
        job.is_typed = job_type is not None and job_type.handler is not None
        max_tries = self._host.max_tries if function.max_tries is None else function.max_tries
        if not job.is_typed:
            job.attempt += job.lapses  # it was perhaps run, and nothing but this count can tell
        if job.lapses >= MOST_LAPSES or (job.lapses > 0 and not (self._host.retry_jobs or job.is_typed)):
            reason = words = f"lost {job.lapses} workers while they ran it"
        elif job.attempt > max_tries:
            reason, words = f"max {max_tries} retries exceeded", f"max retries {max_tries} exceeded"
        else:
            return None
        line = f"{since_s(job.enqueued_ms):6.2f}s ! {shown_ref(job)} {words}"
        return Refusal(Failed(reason), JobExecutionFailed(reason), line)


def name_of_function(name: str | Enum) -> str:
    """Return a function's name as text, cut to 200 characters; applications also use members of enums as names."""
    return (str(name.value) if isinstance(name, Enum) else name)[:_MAX_NAME_CHARACTERS]


def name_of_deserializer(deserializer: Deserializer | None) -> str:
    """Return a name for a function that decodes jobs, the same in each process; None stands for arq's own."""
    if deserializer is None:
        return "pickle.loads"
    named = deserializer if hasattr(deserializer, "__qualname__") else type(deserializer)
    return f"{named.__module__}.{named.__qualname__}"


def _decode(payload: bytes, deserializer: Deserializer | None) -> _Decoded:
    """Decode a job; return function, positional and keyword arguments, first attempt, enqueue time, and identity.

    Raises `SerializationError` if that is not possible, or if the fields are not what arq writes: any program may have
    written them.
    """
    if deserializer is receive:  # it checks the fields, and reads one that arq does not know
        return _received(payload)
    decoded: Any = deserialize_job_raw(payload, deserializer=deserializer)
    function, args, kwargs, attempt, enqueued_ms = decoded
    fits = isinstance(function, (str, Enum)) and isinstance(args, (tuple, list)) and isinstance(kwargs, dict)
    is_dated = isinstance(enqueued_ms, int) and 0 <= enqueued_ms <= LATEST_MS
    is_counted = attempt is None or (isinstance(attempt, int) and 0 <= attempt <= _LARGEST)
    if not (fits and is_dated and is_counted):
        raise SerializationError("unable to deserialize job") from TypeError("it is no job as arq writes them")
    return *decoded, None


def _received(payload: bytes) -> _Decoded:
    try:
        job: Any = receive(payload)
    except ValueError as error:
        raise SerializationError("unable to deserialize job") from error
    return job["f"], job["a"], job["k"], job["t"], job["et"], job.get("identity")


def _invalid(reason: str, *, is_newer: bool = False) -> Rejected:
    return Rejected(CommonReason.INVALID, f"the job {reason}", is_newer)
