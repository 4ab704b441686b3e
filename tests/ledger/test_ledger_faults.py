"""The ledger when a job's own code goes wrong: its errors, its statements, and the number of its verdicts."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from factories import a_job, a_user
from ledgers import CURSED, a_ledger, raising, usernames

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Applied, Failed, RetryLater, Verdict
from tidepool.ledger.ledger import ERROR_DELAYS_S
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from worker.jobs.create_user import CreateUser, create_user


@pytest.mark.parametrize("attempt", range(1, 6))
async def test_a_job_whose_code_raises_is_tried_again_later(pool: Pool, connection: Any, attempt: int) -> None:
    """The others of its batch are applied; it has no effect and no row."""
    ledger = a_ledger(pool, raising(ValueError("a bug")))
    batch = [a_job(a_user(name), attempt=attempt) for name in ("ada", "bob", CURSED, "eve", "zoe")]
    outcomes = await ledger.settle("create_user", batch)
    delay_s = ERROR_DELAYS_S[min(attempt, len(ERROR_DELAYS_S)) - 1]
    assert RetryLater(delay_s) == outcomes.pop(2)
    assert [Applied] * 4 == [type(outcome) for outcome in outcomes]
    assert ["ada", "bob", "eve", "zoe"] == await usernames(connection)
    assert 4 == await connection.fetchval("SELECT count(*) FROM job_results")


async def test_a_job_whose_code_raises_on_its_last_try_has_failed(pool: Pool, connection: Any) -> None:
    """With the error and the content kept, so that it can be enqueued again after the bug is mended."""
    ledger = a_ledger(pool, raising(ValueError("a bug")))
    batch = [a_job(a_user("ada"), is_last_attempt=True), a_job(a_user(CURSED), "a", attempt=5, is_last_attempt=True)]
    applied, failed = await ledger.settle("create_user", batch)
    assert isinstance(applied, Applied)
    assert Failed("ValueError: a bug") == failed
    row = await connection.fetchrow(
        "SELECT status, error, args->>'username', attempts FROM job_results WHERE job_id='a'"
    )
    assert ("failed", "ValueError: a bug", CURSED, 5) == tuple(row)
    assert ["ada"] == await usernames(connection)
    assert (1, 1) == (ledger.tally.applied, ledger.tally.failed)


async def test_a_statement_that_takes_too_long_is_its_jobs_fault(database: PoolConfig) -> None:
    """The server cancels it; the others of its batch are applied, and nobody waits for ever."""
    pool = await Pool.open(replace(database, command_timeout_s=0.3))

    async def slow(transaction: Any, jobs: Sequence[Job[CreateUser]]) -> list[Verdict]:
        if any(job.command.username == CURSED for job in jobs):
            await transaction.execute("SELECT pg_sleep(5)")
        return await create_user(transaction, jobs)

    batch = [a_job(a_user("ada")), a_job(a_user(CURSED))]
    applied, retried = await a_ledger(pool, slow).settle("create_user", batch)
    assert isinstance(applied, Applied)
    assert RetryLater(ERROR_DELAYS_S[0]) == retried
    await pool.close()


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("SELECT $1::int"),
        "SELECT nothing FROM nowhere",
        "SELEC 1",
    ],
)
async def test_a_mistake_in_a_handlers_sql_is_a_bug_and_not_an_outage(pool: Pool, statement: Any) -> None:
    """It is retried as an error and given up after the last try, not retried for ever."""

    async def wrong(transaction: Any, _jobs: Sequence[Job[CreateUser]]) -> list[Verdict]:
        return await transaction.fetch(statement)

    async with asyncio.timeout(1):
        (outcome,) = await a_ledger(pool, wrong).settle("create_user", [a_job(a_user())])
    assert RetryLater(ERROR_DELAYS_S[0]) == outcome


@pytest.mark.parametrize("surplus", [-1, 1])
async def test_a_handler_with_a_wrong_number_of_verdicts_commits_nothing(
    pool: Pool, connection: Any, surplus: int
) -> None:
    """Nobody can tell whose verdict is whose."""

    async def miscounting(transaction: Any, jobs: Sequence[Job[CreateUser]]) -> list[Verdict]:
        verdicts = await create_user(transaction, jobs)
        return verdicts[:surplus] if surplus < 0 else [*verdicts, *verdicts[:surplus]]

    outcomes = await a_ledger(pool, miscounting).settle("create_user", [a_job(a_user(n)) for n in ("a", "b")])
    assert [RetryLater(ERROR_DELAYS_S[0])] * 2 == outcomes
    assert [] == await usernames(connection)
