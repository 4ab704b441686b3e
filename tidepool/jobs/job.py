"""Defines a job as a worker holds it, and how an application declares a job type."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, LiteralString, TypeAlias

from pydantic import ValidationError
from typing_extensions import TypeVar

from tidepool.jobs.command import Command, rejection_of
from tidepool.jobs.outcomes import CommonReason, Failed, Reason, Rejected, Verdict
from tidepool.pool.connection import Connection as Transaction

__all__ = ["AnyJobType", "Job", "JobType", "JobTypes", "Transaction"]

MAX_FIELDS = 100
"""Max fields of a job's arguments: validating 100,000 unknown fields would block the worker for half a second."""

C = TypeVar("C", bound=Command)
C_co = TypeVar("C_co", bound=Command, covariant=True, default=Command)


@dataclass(slots=True, eq=False)
class Job(Generic[C_co]):
    """A job that this process holds: one object from its claim in Redis to its acknowledgement.

    The claim creates it from data in Redis. Decoding adds the function and its arguments, validation the *command*, and
    the ledger makes its row from it. Handlers use only *id* and *command*.

    Two jobs are equal only if they are the same object: a process may claim a job again while it still runs it. The
    class is not frozen, because that would double the time to make one.
    """

    id: str
    """The primary key of the job's ledger row; see `tidepool.jobs.ids.ledger_id`."""
    queue_id: str
    """The job's id in Redis. Bytes that are not UTF-8 are decoded to lone surrogates."""
    owner: str = ""
    """The owner of the lease on the job: the name under which this process holds it in Redis."""
    payload: bytes | int | None = None
    """The job's content in Redis. None: it has expired or is missing. A number: its size in bytes, over the limit."""
    due_ms: int = 0
    """When it could first run (Unix milliseconds): when it was enqueued, or the end of its delay."""
    attempt: int = 1
    """Number of this attempt, from 1."""
    is_retry: bool = False
    """Whether Redis keeps a count of failed attempts for it."""
    lapses: int = 0
    """How many owners, which are worker processes, lost their lease while they held the job."""
    is_aborted: bool = False
    """Whether a client has asked to abort it."""
    started_ms: int = 0
    """When this process claimed the job (Unix milliseconds)."""
    started_ns: int = 0
    """The same moment on the clock of `time.perf_counter_ns`, from which later durations are measured."""

    function: str = "<unknown>"
    enqueued_ms: int = 0
    """When it was enqueued (Unix milliseconds)."""
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = field(default_factory=dict[str, object])
    content: object = None
    """The decoded arguments as one value, for validation and for the ledger, which keeps them for a requeue."""
    is_large: bool = False
    """Whether the job is so large that its arguments are dropped as soon as they are no longer needed."""
    is_cron: bool = False
    is_running: bool = False
    """Whether its function is running, so that a client's abort cancels it."""

    command: C_co = field(init=False)
    """The validated arguments. Not set if *decided* is set."""
    decided: Rejected | Failed | None = None
    """The outcome, if it is known before the handler is called; None otherwise."""
    is_last_attempt: bool = False
    """Whether the job is not run again if this attempt does not lead to an outcome: it is failed or rejected then."""
    left_ns: int = 0
    """When its batch left the batcher, which is when it started (`time.perf_counter_ns`). 0: it has not."""
    has_looked_again: bool = False
    """Whether the handler has returned `Unresolved` for it, and the batches that were running then have ended."""

    @property
    def ref(self) -> str:
        """The job's name in arq's results and log lines."""
        return self.function if self.is_cron else f"{self.queue_id}:{self.function}"

    @property
    def queue_us(self) -> int:
        """Microseconds from when it was due to its claim; 0 if it would be negative because clocks differ."""
        return max(0, self.started_ms - self.due_ms) * 1000

    @property
    def batch_us(self) -> int:
        """Microseconds from its claim to the start of its batch; 0 if it has not started."""
        return max(0, self.left_ns - self.started_ns) // 1000

    def waited_us(self, now_ns: int) -> int:
        """Return the microseconds from the start of its batch to *now_ns*, a reading of `time.perf_counter_ns`.

        If the batch has not started, it is the time from the job's claim.
        """
        return (now_ns - (self.left_ns or self.started_ns)) // 1000

    def forget_arguments(self) -> None:
        """Drop the arguments if the job is large: decoded they may take fifty times the memory of its payload."""
        if self.is_large:
            assert isinstance(self.payload, bytes)
            self.args, self.kwargs = (f"left out: {len(self.payload)} bytes",), {}
            self.content = None


_Handler = Callable[[Transaction, Sequence[Job[C]]], Awaitable[Sequence[Verdict]]]


@dataclass(frozen=True, slots=True)
class JobType(Generic[C]):
    """A job type: its name in the queue, the model of its arguments, and the handler of its batches.

    The *handler* gets the open transaction and the jobs of a batch, and returns one verdict for each job, in order. It
    neither commits nor catches database errors, since the ledger does. *constraints* names the constraints of its
    tables that a job can break, each with the reason for which the job is rejected then. *grants* lists what the
    handler may do in PostgreSQL, each as a GRANT statement has it before TO: `"SELECT, INSERT ON orders"`.
    `migrate --roles` grants it to the role `tidepool_work`, which workers log in as in production.
    """

    name: str
    command: type[C]
    handler: _Handler[C]
    constraints: Mapping[str, Reason] = field(default_factory=dict[str, Reason])
    grants: Sequence[LiteralString] = ()

    def parse(self, content: object) -> C | Rejected:
        """Validate *content*, the decoded arguments of a job; returns the command, or a rejection if it is invalid."""
        if isinstance(content, dict) and len(content) > MAX_FIELDS:
            return Rejected(CommonReason.INVALID, f"has more than {MAX_FIELDS} fields")
        try:
            return self.command.__pydantic_validator__.validate_python(content)
        except (ValidationError, RecursionError) as error:
            return rejection_of(error)


AnyJobType: TypeAlias = JobType[Any]  # a handler takes its own kind of command only, so there is no common base


class JobTypes:
    """The job types of an application, by name. The constructor raises `ValueError` if two have the same name."""

    def __init__(self, types: Iterable[AnyJobType]) -> None:
        self._types: dict[str, AnyJobType] = {}
        for job_type in types:
            if job_type.name in self._types:
                raise ValueError(f"two kinds of jobs are called {job_type.name!r}")
            self._types[job_type.name] = job_type

    def get(self, name: str) -> AnyJobType | None:
        """Return the job type with this *name*, or None if there is none."""
        return self._types.get(name)

    def __iter__(self) -> Iterator[AnyJobType]:
        return iter(self._types.values())
