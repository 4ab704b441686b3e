"""Declares job types: what `@app.job`, `@app.batch` and `@app.function` return, and how their jobs are enqueued.

A job type has a *handler*, which runs a batch of its jobs in one open transaction and returns a verdict for each. An
application that declares a batch writes the handler itself. For a function that runs one job the handler is made here:
it calls the function with the job's arguments. A job type without a handler is a plain function, which arq's engine
runs, outside of any transaction of the library.
"""

import inspect
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, LiteralString, ParamSpec, Protocol, Self, TypeAlias, TypeVar

from pydantic import ValidationError

from tidepool.jobs import arguments
from tidepool.jobs.arguments import Command, Signature
from tidepool.jobs.handlers import Handler, TransactionSource
from tidepool.jobs.job import check_id
from tidepool.jobs.outcomes import Reason, Reject, Rejected
from tidepool.jobs.submission import Submission
from tidepool.repeating import RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")

ERROR_DELAYS_S = (1.0, 5.0, 15.0, 60.0)
"""Seconds before attempts 2, 3, … of a job whose function raised an error; the last one is repeated."""
_NAME = re.compile(r"[^\W\d][\w.:-]{0,99}")


class Sender(Protocol):
    """Enqueues jobs, and reads their results: the application that a job type belongs to."""

    async def send(self, submissions: Sequence[Submission], within: object | None) -> list[bool]:
        """Enqueue jobs, in the transaction of *within* unless that is None; return for each whether its id is new."""
        ...

    def send_now(self, submissions: Sequence[Submission], within: object) -> None:
        """Enqueue jobs in the transaction of *within*, which works without asyncio."""
        ...

    async def result(self, job_id: str, timeout_s: float | None) -> Any:
        """Return the result of a job, after waiting for its end."""
        ...


@dataclass(frozen=True, slots=True)
class Receipt(Generic[R]):
    """A job that was enqueued."""

    id: str
    is_new: bool
    """False if the id was in use already, so that nothing was enqueued. True for a job that leaves with a commit."""
    _sender: Sender = field(repr=False, compare=False)

    async def result(self, timeout_s: float | None = None) -> R:
        """Wait until the job has ended, and return what its function returned.

        Raises `Reject` if the job was rejected, `RuntimeError` with the error of a job that has failed, and
        `TimeoutError` after *timeout_s* seconds.
        """
        return await self._sender.result(self.id, timeout_s)


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """A job that is not enqueued yet: a job type with validated arguments; see `App.enqueue_many`."""

    submission: Submission


@dataclass(frozen=True, kw_only=True, eq=False)
class JobType(Generic[P, R]):
    """A job type: its name in the queue, how its arguments are validated, and the function that runs its jobs.

    *constraints* names the constraints of its tables that a job can break, each with the reason for which the job is
    rejected then. *grants* lists what the function may do in PostgreSQL, each as a GRANT statement has it before TO:
    `"SELECT, INSERT ON orders"`; `migrate --roles` grants it to the role that workers log in as in production.

    With *identity* a job's id is its identity: it has one effect for as long as the ledger keeps its row, however often
    it is enqueued. Without it, ids are used again as in arq: once neither a job nor a result of an id is in Redis, the
    id is a new job. For a function's jobs *identity* counts if they are completed with `tidepool.complete`.
    """

    name: str
    function: Callable[..., Any]
    """What the application has declared; a coroutine function, or a plain one that works on a `Session`."""
    command: type[Command]
    """The model of the arguments."""
    signature: Signature | None = None
    """How the function takes its arguments; None: a batch's function gets the jobs themselves."""
    handler: Handler | None = None
    source: TransactionSource | None = None
    """Where the transactions come from; None: from the worker's pool."""
    max_batch: int | None = None
    """Max number of jobs in one transaction; None: the setting BATCH_LIMIT."""
    attempts: int | None = None
    """Max number of attempts; None: the setting MAX_TRIES."""
    backoff: RetryPolicy | None = None
    """The delays between attempts; None: 1, 5, 15 and then 60 seconds."""
    retry_on: tuple[type[Exception], ...] = (Exception,)
    """The errors after which a job is tried again; after others it has failed at once."""
    timeout_s: float | None = None
    """Max seconds for one job, or for one batch of a batch's function; None: the setting JOB_TIMEOUT."""
    constraints: Mapping[str, Reason] = field(default_factory=dict[str, Reason])
    grants: Sequence[LiteralString] = ()
    identity: bool = False
    wraps_results: bool = False
    """Whether arq's clients get results as `{"status": …}`, or the value itself, and a rejection as an error."""
    sender: Sender | None = field(default=None, repr=False)
    _options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    _within: object | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name: a letter, and max 99 more letters, digits and . : _ -")

    async def __call__(self, on: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself, as a test does; *on* is what it works on, such as a transaction."""
        answer: Any = self.function(on, *args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer

    def retry_delay_s(self, attempt: int) -> float:
        """Return the seconds from the end of *attempt*, which has raised an error, to the next one."""
        if self.backoff is not None:
            return self.backoff.delay_s(attempt)
        return ERROR_DELAYS_S[min(attempt, len(ERROR_DELAYS_S)) - 1]

    async def run(self, ctx: dict[Any, Any], *args: object, **kwargs: object) -> Any:
        """Run a job of a plain function, with arq's ctx. Raises `Reject` if the arguments are not valid."""
        assert self.signature is not None
        command = self.parse(self.content_of(args, kwargs))
        if isinstance(command, Rejected):
            raise Reject(command.reason, command.detail)
        values, named = self.signature.arguments(command)
        return await self.function(ctx, *values, **named)

    def parse(self, content: object) -> Command | Rejected:
        """Validate *content*, the decoded arguments of a job; return them as a command, or a rejection if invalid."""
        return arguments.validate(self.command, content)

    def content_of(self, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """Return the arguments of a job as one value, from which `parse` makes the command.

        A job has its arguments by name, as one object, or by position if the type's function takes them like that.
        Raises `TypeError` if there are too many, or one is given twice.
        """
        if not args:
            return kwargs
        if len(args) == 1 and not kwargs and (self.signature is None or isinstance(args[0], dict)):
            return args[0]
        if self.signature is None:
            raise TypeError("takes its fields by name, or one object")
        return self.signature.bind(args, kwargs)

    def options(
        self,
        *,
        id: str | None = None,  # noqa: A002  (it is the users' word)
        defer: timedelta | datetime | None = None,
        identity: bool | None = None,
    ) -> Self:
        """Return this job type with options for the next jobs that are enqueued: an id, and when they may run.

        *id* is unique while its job is queued, or its result kept; with *identity*, for as long as the ledger keeps its
        row. None: as the type is declared. *defer* is a delay, or a time with a time zone.
        Raises `ValueError` for an id that cannot be one (see `check_id`), or for a time without a time zone.
        """
        if id is not None:
            check_id(id)
        if isinstance(defer, datetime) and defer.tzinfo is None:
            raise ValueError("defer: a time needs a time zone")
        return replace(self, _options={**self._options, "id": id, "defer": defer, "identity": identity})

    def on(self, transaction: object) -> Self:
        """Return this job type so that its jobs are enqueued in *transaction*: if and only if that commits.

        *transaction* is the `Transaction` of a job, an asyncpg or psycopg connection in a transaction, or a session or
        connection of SQLAlchemy.
        """
        return replace(self, _within=transaction)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Return a job that is not enqueued yet, for `App.enqueue_many`. Raises the errors of `enqueue`."""
        command = self._command(args, kwargs)
        job_id, identity = self._options.get("id"), self._options.get("identity")
        identity = (self.identity or None) if identity is None else identity
        fields = arguments.encode(command)
        due_ms = _time_ms(self._options.get("defer"))
        return Call(Submission(job_id or uuid.uuid4().hex, self.name, fields, identity, due_ms=due_ms))

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Receipt[R]:
        """Enqueue a job with these arguments, and return its receipt.

        Raises `TypeError` for arguments that the function does not take, `ValueError` for values that are not valid or
        cannot be sent as JSON, and `RuntimeError` if the application is not open.
        """
        call = self.call(*args, **kwargs)
        sender = self._required_sender()
        (is_new,) = await sender.send([call.submission], self._within)
        return Receipt(call.submission.id, is_new, sender)

    def enqueue_now(self, *args: P.args, **kwargs: P.kwargs) -> Receipt[R]:
        """Do as `enqueue` in code without asyncio, in the transaction that `on` has named.

        That is one of SQLAlchemy's `Session` or `Connection`, or of psycopg's `Connection`.
        """
        if self._within is None:
            raise RuntimeError(f"{self.name}.enqueue_now needs a transaction: {self.name}.on(session).enqueue_now(…)")
        call, sender = self.call(*args, **kwargs), self._required_sender()
        sender.send_now([call.submission], self._within)
        return Receipt(call.submission.id, is_new=True, _sender=sender)

    def _required_sender(self) -> Sender:
        if self.sender is None:
            raise RuntimeError(f"the job type {self.name} belongs to no application")
        return self.sender

    def _command(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Command:
        if self.signature is None:
            (command,) = args
            if not isinstance(command, self.command):
                raise TypeError(f"{self.name} takes a {self.command.__name__}, not a {type(command).__name__}")
            return command
        inspect.signature(self.function).bind(None, *args, **kwargs)  # raises Python's own TypeError
        try:
            return self.command(**self.signature.bind(args, kwargs))
        except ValidationError as error:
            raise ValueError(f"{self.name}: {arguments.rejection_of(error).detail}") from None


AnyJobType: TypeAlias = JobType[Any, Any]


class JobTypes:
    """The job types of an application, by name. Raises `ValueError` if two have the same name."""

    def __init__(self, types: Iterable[AnyJobType] = ()) -> None:
        self._types: dict[str, AnyJobType] = {}
        for job_type in types:
            self.add(job_type)

    def add(self, job_type: AnyJobType) -> None:
        """Add *job_type*. Raises `ValueError` if there is one of that name already."""
        if job_type.name in self._types:
            raise ValueError(f"two job types are called {job_type.name!r}")
        self._types[job_type.name] = job_type

    def get(self, name: str) -> AnyJobType | None:
        """Return the job type with this *name*, or None if there is none."""
        return self._types.get(name)

    def __iter__(self) -> Iterator[AnyJobType]:
        return iter(self._types.values())


def _time_ms(defer: timedelta | datetime | None) -> int | None:
    """Return when a job may run (Unix milliseconds) that is deferred by a delay or to a time; None: at once."""
    now = datetime.now(UTC)
    due = now + defer if isinstance(defer, timedelta) else defer
    return None if due is None or due <= now else int(due.timestamp() * 1000)
