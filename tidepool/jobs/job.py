"""A job in a worker, and the declaration of a job type."""

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
"""Content with more is no command: to validate 100,000 unknown fields would block the worker for half a second."""

C = TypeVar("C", bound=Command)
C_co = TypeVar("C_co", bound=Command, covariant=True, default=Command)


@dataclass(slots=True, eq=False)
class Job(Generic[C_co]):
    """A job that this process holds: one object from the claim to the acknowledgement.

    The claim makes it of what Redis says. Decoding adds the function and its arguments, validation the *command*, and
    the ledger writes its row of it. Handlers use *id* and *command*.

    Two jobs are equal only if they are the same object: a process may claim a job again while it still runs it. The
    class is not frozen, because that would double the time to make one.
    """

    id: str
    """Key of the job's ledger row; see `tidepool.jobs.ids.ledger_id`."""
    queue_id: str
    """The id as it is in Redis. Bytes that are not UTF-8 are lone surrogates in it."""
    owner: str = ""
    """The name under which this process holds it."""
    payload: bytes | int | None = None
    """The job's content in Redis. None: it has expired or is missing. A number: its size, which is over the limit."""
    due_ms: int = 0
    """When it could run first (Unix time): when it was enqueued, or the end of its delay."""
    attempt: int = 1
    """Number of this attempt, from 1."""
    is_retry: bool = False
    """Whether Redis keeps a count of failed attempts for it."""
    lapses: int = 0
    """How many owners lost their lease while they held it."""
    is_aborted: bool = False
    """Whether a client has asked to abort it."""
    started_ms: int = 0
    """When this process claimed it (Unix time)."""
    started_ns: int = 0
    """The same moment on the clock of `time.perf_counter_ns`, from which later durations are measured."""

    function: str = "<unknown>"
    enqueued_ms: int = 0
    """When it was enqueued (Unix time)."""
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = field(default_factory=dict[str, object])
    content: object = None
    """The decoded arguments as one value, for validation and for the ledger, which keeps them for a requeue."""
    is_large: bool = False
    """Whether its arguments are dropped as soon as they are not needed any more."""
    is_cron: bool = False
    is_running: bool = False
    """Whether its function runs at this moment, so that an abort cancels it."""

    command: C_co = field(init=False)
    """The validated content. Not set if *decided* is."""
    decided: Rejected | Failed | None = None
    """The outcome that is known before the handler is asked."""
    is_last_attempt: bool = False
    """Whether it fails, instead of being run again, if this attempt does not settle it."""
    left_ns: int = 0
    """When its batch left the batcher (`time.perf_counter_ns`). 0: it has not."""
    has_looked_again: bool = False
    """Whether the handler found it unresolved before, and it has waited for the batches that were under way then."""

    @property
    def ref(self) -> str:
        """The job's name in arq's results and log lines."""
        return self.function if self.is_cron else f"{self.queue_id}:{self.function}"

    @property
    def queue_us(self) -> int:
        """How long it was due before it was claimed. Not negative: the clocks of two machines may differ."""
        return max(0, self.started_ms - self.due_ms) * 1000

    @property
    def batch_us(self) -> int:
        """How long it waited in the batcher until its batch left."""
        return max(0, self.left_ns - self.started_ns) // 1000

    def waited_us(self, now_ns: int) -> int:
        """Return how long ago its batch left the batcher."""
        return (now_ns - (self.left_ns or self.started_ns)) // 1000

    def forget_arguments(self) -> None:
        """Drop the arguments of a large job: decoded they may take fifty times the memory of its payload."""
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
        """Validate *content*, the decoded arguments of a job. Raises nothing, whatever a sender wrote."""
        if isinstance(content, dict) and len(content) > MAX_FIELDS:
            return Rejected(CommonReason.INVALID, f"has more than {MAX_FIELDS} fields")
        try:
            return self.command.__pydantic_validator__.validate_python(content)
        except (ValidationError, RecursionError) as error:
            return rejection_of(error)


AnyJobType: TypeAlias = JobType[Any]  # a handler takes its own kind of command only, so there is no common base


class JobTypes:
    """The job types of an application by name. Raises `ValueError` if two have the same name."""

    def __init__(self, types: Iterable[AnyJobType]) -> None:
        self._types: dict[str, AnyJobType] = {}
        for job_type in types:
            if job_type.name in self._types:
                raise ValueError(f"two kinds of jobs are called {job_type.name!r}")
            self._types[job_type.name] = job_type

    def get(self, name: str) -> AnyJobType | None:
        """Return the job type called *name*, or None."""
        return self._types.get(name)

    def __iter__(self) -> Iterator[AnyJobType]:
        return iter(self._types.values())
