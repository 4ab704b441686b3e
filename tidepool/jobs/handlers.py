"""Makes handlers of functions. A handler runs the jobs of a batch in one open transaction, and returns verdicts."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Protocol, TypeAlias, get_args, get_type_hints

from tidepool.jobs.arguments import Command, Signature
from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Applied, HandlerError, Reject, Rejected, Unresolved, Verdict
from tidepool.jobs.transaction import Transaction
from tidepool.pool.connection import Connection
from tidepool.pool.faults import DatabaseFault, DataFault, words

_SAVEPOINT, _KEEP = "SAVEPOINT tidepool_job", "RELEASE tidepool_job; SAVEPOINT tidepool_job"
_UNDO = "ROLLBACK TO tidepool_job"
_PARAMETERS_OF_BATCH = 2
_VERDICTS = (Applied, Rejected, Unresolved)

Handler: TypeAlias = Callable[[Connection, Sequence[Job[Any]], float], Awaitable[Sequence[Verdict | Exception]]]
"""Runs jobs in an open transaction, each for up to so many seconds, or all of them if the function takes them at once.

Returns for each job its verdict, or the error that its code raised."""
_Lend: TypeAlias = Callable[[Connection, Job[Any]], AbstractAsyncContextManager[object]]


class TransactionSource(Protocol):
    """Opens the transactions in which the jobs of a type run."""

    def transaction(self, schema: str) -> AbstractAsyncContextManager[Connection]:
        """Return a context manager for a transaction, which is committed at the end of the block.

        *schema* is that of the library's tables in its database.
        """
        ...

    def lend(self, connection: Connection, job: Job[Any]) -> AbstractAsyncContextManager[object]:
        """Return a context manager for what the function of *job* works on within the transaction of *connection*."""
        ...


def command_of_batch(function: Callable[..., object]) -> type[Command]:
    """Return the model of a batch's arguments: `View` if the second parameter of *function* is `Sequence[Job[View]]`.

    Raises `TypeError` if it is something else.
    """
    names = list(inspect.signature(function).parameters)
    jobs = get_args(get_type_hints(function).get(names[1]))[:1] if len(names) == _PARAMETERS_OF_BATCH else ()
    command = next((argument for job in jobs for argument in get_args(job)), None)
    if not (isinstance(command, type) and issubclass(command, Command)):
        name = getattr(function, "__qualname__", repr(function))
        raise TypeError(f"{name}: the second parameter must be annotated as Sequence[Job[C]], with a Command C")
    return command


def handler_of_batch(function: Callable[..., Awaitable[Sequence[Any]]]) -> Handler:
    """Return the handler that calls *function* with all jobs of a batch. What it returns are verdicts, or results."""

    async def handle(connection: Connection, jobs: Sequence[Job[Any]], timeout_s: float) -> list[Verdict]:
        with _explaining(timeout_s) as limit:
            async with Transaction(connection) as transaction, limit:
                answers = await function(transaction, jobs)
        if len(answers) != len(jobs):
            raise HandlerError(f"answered {len(answers)} of {len(jobs)} jobs")
        return [answer if isinstance(answer, _VERDICTS) else Applied(answer) for answer in answers]

    return handle


def handler_of_each(function: Callable[..., Awaitable[Any]], signature: Signature, lend: _Lend) -> Handler:
    """Return the handler that calls *function* once for each job of a batch, with what *lend* returns for that job.

    A single job's error is raised. Of several jobs, each has a savepoint of its own: an error undoes what that job has
    done, and is returned in place of its verdict. Errors that no job is the cause of are raised.
    """

    async def run(connection: Connection, job: Job[Any], timeout_s: float) -> Verdict:
        args, kwargs = signature.arguments(job.command)
        with _explaining(timeout_s) as limit:
            async with lend(connection, job) as held, limit:
                answer = await function(held, *args, **kwargs)
                if isinstance(answer, Rejected):
                    raise Reject(answer.reason, answer.detail)
        return answer if isinstance(answer, Applied) else Applied(answer)

    async def run_each(connection: Connection, jobs: Sequence[Job[Any]], timeout_s: float) -> list[Verdict | Exception]:
        verdicts: list[Verdict | Exception] = []
        await connection.execute(_SAVEPOINT)
        for job in jobs:
            try:
                verdict = await run(connection, job, timeout_s)
                await connection.execute(_KEEP)
            except Exception as error:
                if not isinstance(fault := DatabaseFault.of(error) or error, (HandlerError, DataFault)):
                    raise
                verdict = fault
                await connection.execute(_UNDO)
            verdicts.append(verdict)
        return verdicts

    async def handle(connection: Connection, jobs: Sequence[Job[Any]], timeout_s: float) -> list[Verdict | Exception]:
        if len(jobs) > 1:
            return await run_each(connection, jobs, timeout_s)
        return [await run(connection, jobs[0], timeout_s)]

    return handle


def lend_transaction(connection: Connection, job: Job[Any]) -> Transaction:
    """Return the transaction that is open on *connection*, one of the worker's pool, for the function of *job*."""
    return Transaction(connection, job.id, job.attempt)


@contextmanager
def _explaining(timeout_s: float) -> Generator[asyncio.Timeout]:
    """Yield a limit of *timeout_s* seconds for the function that is called in the block, and explain its errors.

    `HandlerError` is raised if the limit is exceeded, or for a database error that concerns one statement of the
    function, such as a missing grant.
    """
    limit = asyncio.timeout(timeout_s)
    try:
        yield limit
    except HandlerError as error:
        if isinstance(error.__cause__, TimeoutError) and limit.expired():
            raise HandlerError(f"took longer than {timeout_s} s") from None
        raise
    except Exception as error:
        fault = DatabaseFault.of(error)
        if fault is not None and fault.is_of_one_statement:
            raise HandlerError(f"PostgreSQL refuses its statement: {words(error)}") from None
        raise
