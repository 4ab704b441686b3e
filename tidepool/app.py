"""Declares an application: its jobs, settings and migrations. Enqueues its jobs."""

import functools
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    LiteralString,
    ParamSpec,
    Protocol,
    Self,
    TypeAlias,
    TypedDict,
    TypeGuard,
    TypeVar,
    Unpack,
    get_type_hints,
    overload,
)

from tidepool.client import MOST_AT_ONCE, JobClient, open_client
from tidepool.jobs import handlers
from tidepool.jobs.arguments import Command, Signature
from tidepool.jobs.cron import Cron, zone_of
from tidepool.jobs.job import Job
from tidepool.jobs.job_type import AnyJobType, Call, JobType, JobTypes, Receipt
from tidepool.jobs.outcomes import Reason, Reject, Rejected, Unresolved
from tidepool.jobs.submission import Submission
from tidepool.jobs.transaction import Transaction
from tidepool.ledger import outbox
from tidepool.repeating import RetryPolicy
from tidepool.settings import Settings
from tidepool.storage.migrator import Migrations
from tidepool.storage.outbox import OutboxJob

if TYPE_CHECKING:
    from tidepool.sqlalchemy import SessionSource

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=Command)
_AnyFunction: TypeAlias = Callable[..., Awaitable[Any]]


class Declaration(TypedDict, total=False):
    """What every declaration of a job can say. See `JobType` for the meaning of each."""

    name: str
    """The job type's name in the queue; default: the function's."""
    attempts: int
    backoff: RetryPolicy
    retry_on: tuple[type[Exception], ...]
    timeout_s: float
    constraints: Mapping[str, Reason]
    grants: Sequence[LiteralString]
    identity: bool


class _OutboxPlace(TypedDict):
    schema: str
    queue_name: str


class _Declares(Protocol):
    """Declares a function, which may be one without asyncio, as a job."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Awaitable[R]], /) -> JobType[P, R]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> JobType[P, R]: ...


class App:
    """An application: its job types, its settings class, and its migrations, which run after the library's own.

        app = App()

        @app.job
        async def charge(tx: Transaction, order_id: int, cents: int) -> int:
            return await tx.fetchval("INSERT INTO charges VALUES ($1, $2) RETURNING id", order_id, cents)

        async with app:
            receipt = await charge.enqueue(17, 990)

    Jobs are enqueued while the application is open: in a block `async with app:`, and in every worker. *wraps_results*
    is whether arq's clients get the results of its jobs as `{"status": "applied", "result": …}`, and rejections in the
    same form; otherwise they get what the function returned, and a rejection as an error. *sessions* is the
    application's `async_sessionmaker`, for jobs that work on sessions of SQLAlchemy.
    """

    def __init__(
        self,
        *,
        settings: type[Settings] = Settings,
        migrations: Migrations | None = None,
        wraps_results: bool = False,
        sessions: Callable[..., Any] | None = None,
    ) -> None:
        self.settings = settings
        self.migrations = migrations or Migrations()
        self.job_types = JobTypes()
        self.crons: list[Cron] = []
        self._wraps_results = wraps_results
        self._sessions = sessions
        self._client: JobClient | None = None
        self._loaded: Settings | None = None
        self._open = AsyncExitStack()

    # ---------------------------------------------------------------- declaring

    @overload
    def job(self, function: Callable[Concatenate[Any, P], Awaitable[R]], /) -> JobType[P, R]: ...

    @overload
    def job(self, function: Callable[Concatenate[Any, P], R], /) -> JobType[P, R]: ...

    @overload
    def job(self, /, *, share: int = 1, **options: Unpack[Declaration]) -> _Declares: ...

    def job(self, function: Any = None, /, *, share: int = 1, **options: Unpack[Declaration]) -> Any:
        """Declare a job whose effects are made in a transaction, which is committed with the job's ledger row.

        The annotation of the function's first parameter says what it works on: `Transaction`, or with *sessions* of
        `App` SQLAlchemy's `AsyncSession` or `AsyncConnection`, or a `Session` in a plain function. The other parameters
        are the job's arguments, which are validated by their annotations. A job has a transaction of its own. With
        *share*, up to so many jobs of the type have one together, each with a savepoint: fewer commits, and an error
        still undoes only the effects of its own job.

        The function raises `Reject` if a rule forbids the job, and arq's `Retry` to run again later; any other error
        is retried, see `JobType.attempts`, `backoff` and `retry_on`. Raises `TypeError` for parameters that a job
        cannot have.
        """
        if function is None:
            return functools.partial(self._job, share=share, options=options)
        return self._job(function, share, options)

    @overload
    def batch(
        self, function: Callable[[Transaction, Sequence[Job[C]]], Awaitable[Sequence[R | Rejected | Unresolved]]], /
    ) -> JobType[[C], R]: ...

    @overload
    def batch(
        self, /, *, limit: int | None = None, **options: Unpack[Declaration]
    ) -> Callable[
        [Callable[[Transaction, Sequence[Job[C]]], Awaitable[Sequence[R | Rejected | Unresolved]]]], JobType[[C], R]
    ]: ...

    def batch(self, function: Any = None, /, *, limit: int | None = None, **options: Unpack[Declaration]) -> Any:
        """Declare a job whose function runs up to *limit* jobs at once, with few statements for all of them.

        The function gets the open transaction and the jobs, and returns for each, in order, its result or a verdict:
        `Applied`, `Rejected`, `Unresolved`. Its second parameter is annotated as `Sequence[Job[C]]`; the `Command` C is
        the argument of a job. If it raises an error, the jobs are run again in halves, until the job that is the cause
        is alone. *limit* is by default the setting BATCH_LIMIT. Raises `TypeError` if the annotation is another one.
        """
        if function is None:
            return functools.partial(self._batch, limit=limit, options=options)
        return self._batch(function, limit, options)

    @overload
    def function(self, function: Callable[Concatenate[Any, P], Awaitable[R]], /) -> JobType[P, R]: ...

    @overload
    def function(
        self, /, **options: Unpack[Declaration]
    ) -> Callable[[Callable[Concatenate[Any, P], Awaitable[R]]], JobType[P, R]]: ...

    def function(self, function: Any = None, /, **options: Unpack[Declaration]) -> Any:
        """Declare a job that makes its effects by itself: its function gets arq's ctx, and no transaction.

        The function may run again if its worker is lost, or after an error (see `JobType.attempts`, `backoff` and
        `retry_on`), until it has completed the job: the effects in a block of `tidepool.complete(ctx)` are committed
        exactly once. The outcome of a job that was not completed is recorded after the function has ended. Raises
        `TypeError` for parameters that a job cannot have.
        """
        if function is None:
            return functools.partial(self._function, options=options)
        return self._function(function, options)

    def _function(self, function: _AnyFunction, options: Declaration) -> AnyJobType:
        signature = Signature.of(function)
        parts: dict[str, Any] = {"command": signature.model, "signature": signature}
        if self._sessions is not None:  # which `complete` lends
            from tidepool.sqlalchemy import SessionSource  # noqa: PLC0415  (the application has imported SQLAlchemy)

            parts["source"] = SessionSource(self._sessions)
        return self._declare(function, options, **parts)

    def _job(self, function: _AnyFunction, share: int, options: Declaration) -> AnyJobType:
        if share < 1:
            raise ValueError("share: at least one job")
        signature = Signature.of(function)
        parts: dict[str, Any] = {"command": signature.model, "signature": signature, "max_batch": share}
        if signature.held is Transaction:
            handler = handlers.handler_of_each(function, signature, handlers.lend_transaction)
            return self._declare(function, options, handler=handler, **parts)
        source = self._source(function, signature.held)
        handler = handlers.handler_of_each(source.calling(function), signature, source.lend)
        return self._declare(function, options, handler=handler, source=source, **parts)

    def _source(self, function: _AnyFunction, held: object) -> "SessionSource":
        """Return where a function that works on *held* gets transactions. Raises `TypeError` if there is none."""
        if not _is_of_sqlalchemy(held):
            raise TypeError(
                f"{function.__qualname__}: the first parameter must be annotated as tidepool.Transaction, or as "
                "AsyncSession, AsyncConnection or Session of SQLAlchemy"
            )
        if self._sessions is None:
            raise TypeError(
                f"{function.__qualname__} works on {held.__name__}: App needs sessions=, an async_sessionmaker"
            )
        from tidepool.sqlalchemy import SessionSource  # noqa: PLC0415  (the application has imported SQLAlchemy)

        return SessionSource(self._sessions, held)

    def _batch(self, function: _AnyFunction, limit: int | None, options: Declaration) -> AnyJobType:
        command, handler = handlers.command_of_batch(function), handlers.handler_of_batch(function)
        if _is_of_sqlalchemy(next(iter(get_type_hints(function).values()))):
            raise TypeError(
                f"{function.__qualname__}: a batch works on a tidepool.Transaction, with statements for all its jobs; "
                "for jobs that work on sessions of SQLAlchemy use @app.job(share=N)"
            )
        return self._declare(function, options, command=command, handler=handler, max_batch=limit)

    def _declare(self, function: _AnyFunction, options: Declaration, **parts: Any) -> AnyJobType:
        declared: dict[str, Any] = {"name": function.__name__, **options, **parts}
        job_type = JobType[Any, Any](function=function, wraps_results=self._wraps_results, sender=self, **declared)
        self.job_types.add(job_type)
        return job_type

    def cron(
        self, expression: str, /, *, timezone: str = "UTC", catch_up: bool = False
    ) -> Callable[[JobType[P, R]], JobType[P, R]]:
        """Declare that the workers enqueue a job of this type at each tick of a cron *expression*.

            @app.cron("*/5 * * * *")
            @app.job
            async def close_carts(tx: Transaction) -> None: ...

        The expression has five fields (minute, hour, day of month, month, day of week), or six with seconds before
        them; *timezone* is a name such as `Europe/Berlin`. All workers enqueue a tick, as one job: its id has the time.
        With `@app.job` the tick has one effect; a function without a transaction may run again, as always. A tick is
        skipped if it was missed for more than a minute because no worker ran, or Redis was away; with *catch_up* all
        ticks since the last one in the ledger are made up for.

        When clocks change, five fields behave as in Debian's cron: a job at a fixed hour that is left out runs right
        after the change, and one in an hour that is repeated runs once; if the minute or the hour begins with `*`, the
        job runs by elapsed time. With six fields, times that are left out have no tick, and repeated ones have two.

        Raises `ValueError` for an expression or time zone that is not valid, and `TypeError` if the job type needs
        arguments.
        """

        def declare(job_type: JobType[P, R]) -> JobType[P, R]:
            if job_type.signature is None:
                raise TypeError(f"{job_type.name}: a batch's job needs an argument, so it has no cron expression")
            cron = Cron(job_type, expression, zone_of(timezone), catch_up)
            cron.submission_at(datetime.now(UTC))  # raises Python's own TypeError for a missing argument
            self.crons.append(cron)
            return job_type

        return declare

    # ---------------------------------------------------------------- enqueuing

    async def __aenter__(self) -> Self:
        """Connect to the queue. Raises `SettingsError` if the environment is not valid."""
        self._loaded = self.settings.load()
        self._client = await self._open.enter_async_context(open_client(self._loaded))
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._client = None
        await self._open.aclose()

    @contextmanager
    def use(self, client: JobClient, settings: Settings) -> Generator[None]:
        """Enqueue jobs with *client* and by *settings* in a `with` block: a worker does this while it runs."""
        before = self._client, self._loaded
        self._client, self._loaded = client, settings
        try:
            yield
        finally:
            self._client, self._loaded = before

    @property
    def client(self) -> JobClient:
        """The client of the queue. Raises `RuntimeError` if the application is not open."""
        if self._client is None:
            raise RuntimeError("the application is not open: enqueue its jobs in a block `async with app:`")
        return self._client

    async def enqueue_many(self, calls: Iterable[Call[R]], *, on: object | None = None) -> list[Receipt[R]]:
        """Enqueue jobs of any types, in few round trips: `[charge.call(17, 990), charge.call(18, 120)]`.

        Returns their receipts in order. With *on* they are enqueued in that transaction; see `JobType.on`. Raises the
        errors of `JobClient.enqueue_many`.
        """
        submissions = [call.submission for call in calls]
        are_new: list[bool] = []
        for first in range(0, len(submissions), MOST_AT_ONCE):
            are_new += await self.send(submissions[first : first + MOST_AT_ONCE], on)
        return [Receipt(job.id, is_new, self) for job, is_new in zip(submissions, are_new, strict=True)]

    async def send(self, submissions: Sequence[Submission], within: object | None) -> list[bool]:
        """See `tidepool.jobs.job_type.Sender`."""
        if within is None:
            return await self.client.enqueue_many(submissions)
        await outbox.write(within, [_outbox_job(one) for one in submissions], **self._outbox())
        return [True] * len(submissions)

    def send_now(self, submissions: Sequence[Submission], within: object) -> None:
        """See `tidepool.jobs.job_type.Sender`."""
        outbox.write_now(within, [_outbox_job(one) for one in submissions], **self._outbox())

    def _outbox(self) -> _OutboxPlace:
        """Return where the outbox is, and for which queue; reads the environment if that is not done yet."""
        if self._loaded is None:
            self._loaded = self.settings.load()
        return {"schema": self._loaded.db_schema, "queue_name": self._loaded.queue_name}

    async def result(self, job_id: str, timeout_s: float | None) -> Any:
        """See `tidepool.jobs.job_type.Sender`."""
        result: object = await self.client.result(job_id, timeout_s=timeout_s)
        return _unwrapped(result) if self._wraps_results else result

    # ---------------------------------------------------------------- running

    @classmethod
    def load(cls, place: str) -> Self:
        """Import and return the application at *place*, which has the form `package.module:attribute`.

        Arq settings that `tidepool.adopt` has adopted count as an application without job types. Raises `ValueError` if
        there is none. Errors that the application's own modules raise are not caught.
        """
        found = _load(place)
        if isinstance(found, cls):
            return found
        return cls(settings=_settings_class_of(found))

    @staticmethod
    def settings_at(place: str) -> object:
        """Import and return the settings for arq's worker at *place*: those of an application, or adopted arq settings.

        The errors are those of `load`. Reads the environment, as `worker_settings` does.
        """
        found = _load(place)
        if isinstance(found, App):
            return found.worker_settings()
        _settings_class_of(found)
        return found

    @property
    def grants(self) -> list[LiteralString]:
        """Return the database privileges that the job handlers need, as in a GRANT statement before TO; see `JobType`.

        Example: `"SELECT, INSERT ON orders"`. No privilege is listed twice.
        """
        return list(dict.fromkeys(grant for job_type in self.job_types for grant in job_type.grants))

    def worker_settings(self) -> type:
        """Return the settings class that the `arq` command runs workers with.

        Reads the environment. Ends the process with status 2, and one line for each wrong variable, if it is not valid.
        """
        from tidepool.lifecycle import worker_settings  # noqa: PLC0415  (only a worker needs all of it)

        return worker_settings(self)


def _is_of_sqlalchemy(held: object) -> TypeGuard[type]:
    """Return whether *held* is a class of SQLAlchemy, or one that is derived from such a class."""
    return isinstance(held, type) and any(base.__module__.partition(".")[0] == "sqlalchemy" for base in held.__mro__)


def _unwrapped(result: object) -> object:
    """Return the result in `{"status": "applied", "result": …}`. Raises `Reject` for that of a rejected job."""
    match result:
        case {"status": "applied", "result": inner}:
            return inner
        case {"status": "rejected", "reason": str(reason), "error": str(detail)}:
            raise Reject(reason, detail)
        case _:
            return result  # of a plain function


def _outbox_job(submission: Submission) -> OutboxJob:
    """Encode a job for the outbox, which knows by its identity which outcome is that of the job."""
    return outbox.job_of(replace(submission, identity=submission.identity or False))


def _load(place: str) -> object:
    """Import and return what is at *place*, which has the form `package.module:attribute`; None if there is nothing.

    Raises `ValueError` if *place* has another form, or if there is no such module. Errors that the application's own
    modules raise are not caught.
    """
    module, colon, name = place.partition(":")
    if not (module and colon and name.isidentifier()):
        raise ValueError(f"{place!r} is not of the form package.module:attribute")
    try:
        return getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a module that the application needs is not installed
        raise ValueError(f"no module is called {module!r}") from None


def _settings_class_of(found: object) -> type[Settings]:
    """Return the class of Tidepool's settings for adopted arq settings. Raises `ValueError` for anything else."""
    from tidepool.adopting import settings_class_of  # noqa: PLC0415  (brings the engine, which few commands need)

    if (settings := settings_class_of(found)) is None:
        raise ValueError(f"{found!r} is neither a tidepool.App nor arq settings that tidepool.adopt has adopted")
    return settings
