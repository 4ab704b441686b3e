"""Ledgers with a handler of the test's own, for the tests of what goes wrong."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tidepool.jobs.handlers import handler_of_batch
from tidepool.jobs.job import Job
from tidepool.jobs.job_type import JobTypes
from tidepool.jobs.outcomes import Verdict
from tidepool.ledger.ledger import Ledger
from worker.jobs import JOBS
from worker.jobs.create_user import CreateUser, create_user

CURSED = "cursed"


def a_ledger(pool: Any, function: Any = create_user) -> Ledger:
    """Return a ledger whose create_user jobs are run by *function*."""
    others = [job_type for job_type in JOBS if job_type.name != "create_user"]
    return Ledger(
        pool,
        JobTypes([replace(create_user, function=function, handler=handler_of_batch(function)), *others]),
        worker_id="worker-1",
    )


def raising(error: Exception) -> Callable[..., Any]:
    """Return a handler that raises *error* where the cursed user is in the batch."""

    async def handler(transaction: Any, jobs: Sequence[Job[CreateUser]]) -> list[Verdict]:
        verdicts = await create_user(transaction, jobs)
        if any(job.command.username == CURSED for job in jobs):
            raise error
        return verdicts

    return handler


async def usernames(connection: Any) -> list[str]:
    """Return the users that are there."""
    return [row["username"] for row in await connection.fetch("SELECT username FROM users ORDER BY username")]
