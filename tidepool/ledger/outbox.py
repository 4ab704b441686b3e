"""Enqueues jobs in a transaction of the caller: they are enqueued if and only if it commits.

The jobs are written to the outbox, a table, with a statement that the caller's own connection or session executes. The
relay (`tidepool.ledger.relay`) copies them to Redis after the COMMIT.

    async with connection.transaction():
        await write(connection, [job_of(Submission("charge-17", "charge", {…}))], schema=…, queue_name=…)
"""

from collections.abc import Sequence
from typing import Any

from tidepool.jobs.job import check_id
from tidepool.jobs.submission import Submission
from tidepool.queue import wire
from tidepool.queue.wire import now_ms
from tidepool.storage.outbox import OutboxJob, addition, parameters

_KINDS = (
    "needs an asyncpg connection, a job's transaction, an AsyncSession, AsyncConnection, Session or Connection of "
    "SQLAlchemy, or a connection of psycopg"
)


def job_of(submission: Submission) -> OutboxJob:
    """Encode a job for the outbox, enqueued now.

    Raises `ValueError` if it is larger than `MAX_PAYLOAD_BYTES`, or if its id is not valid.
    """
    check_id(submission.id)
    enqueued_ms = now_ms() if submission.enqueued_ms is None else submission.enqueued_ms
    payload = wire.encode(submission, enqueued_ms)
    if len(payload) > wire.MAX_PAYLOAD_BYTES:
        raise ValueError(f"job {submission.id} is larger than {wire.MAX_PAYLOAD_BYTES} bytes")
    when_and_what = (enqueued_ms, submission.due_ms, submission.identity)
    return OutboxJob(submission.id, submission.function, payload, *when_and_what)


async def write(holder: object, jobs: Sequence[OutboxJob], *, schema: str, queue_name: str) -> None:
    """Write *jobs* to the outbox in the transaction of *holder*, with one statement.

    *holder* is an asyncpg connection or a job's transaction; an `AsyncSession` or `AsyncConnection` of SQLAlchemy; or
    psycopg's `AsyncConnection`. Raises `RuntimeError` if it is in no transaction, `TypeError` if it is anything else,
    `ValueError` for an invalid job id, and the errors of *holder*.
    """
    statement, values = _addition(jobs, schema, queue_name)
    match _library_of(holder):
        case "sqlalchemy":
            from tidepool import sqlalchemy  # noqa: PLC0415  (the application has imported SQLAlchemy)

            await sqlalchemy.execute(holder, statement, values)
        case "psycopg":
            from tidepool import psycopg  # noqa: PLC0415  (the application has imported psycopg)

            await psycopg.execute(holder, statement, values)
        case _:
            await _execute(holder, statement, values)


def write_now(holder: object, jobs: Sequence[OutboxJob], *, schema: str, queue_name: str) -> None:
    """Do as `write` for a *holder* without asyncio: SQLAlchemy's `Session` or `Connection`, psycopg's `Connection`."""
    statement, values = _addition(jobs, schema, queue_name)
    match _library_of(holder):
        case "sqlalchemy":
            from tidepool import sqlalchemy  # noqa: PLC0415  (the application has imported SQLAlchemy)

            sqlalchemy.execute_now(holder, statement, values)
        case "psycopg":
            from tidepool import psycopg  # noqa: PLC0415  (the application has imported psycopg)

            psycopg.execute_now(holder, statement, values)
        case _:
            raise TypeError(f"{_KINDS}; not {type(holder).__name__}")


def _addition(jobs: Sequence[OutboxJob], schema: str, queue_name: str) -> tuple[str, tuple[str, str]]:
    for job in jobs:
        check_id(job.job_id)
    return addition(schema), parameters(jobs, queue_name)


def _library_of(holder: object) -> str:
    """Return the package that the class of *holder* or one of its bases is from; an application may have subclasses."""
    packages = {kind.__module__.partition(".")[0] for kind in type(holder).__mro__}
    return next((name for name in ("sqlalchemy", "psycopg") if name in packages), "")


async def _execute(connection: Any, statement: str, values: Sequence[str]) -> None:
    if not hasattr(connection, "is_in_transaction") or not hasattr(connection, "execute"):
        raise TypeError(f"{_KINDS}; not {type(connection).__name__}")
    if not connection.is_in_transaction():
        raise RuntimeError(
            "the connection is in no transaction, so the job would be enqueued whatever happens next: "
            "use `async with connection.transaction():`"
        )
    await connection.execute(statement, *values)
