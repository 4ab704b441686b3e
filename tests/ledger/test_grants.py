"""What is missing in the schema: of a handler it is its job type's failure, of the ledger it is waited for."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from factories import a_job, a_product, a_user

from tidepool.jobs.outcomes import Applied, Failed, RetryLater
from tidepool.ledger.ledger import Ledger
from tidepool.pool.pool import Pool
from worker.jobs import JOBS

_BREAK = """
CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM {}; RETURN NEW; END';
CREATE TRIGGER broken BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION broken()"""
MISSING = [
    "REVOKE INSERT ON users FROM works",
    "DROP TABLE users CASCADE",
    "ALTER TABLE users DROP COLUMN full_name",
    _BREAK.format("no_such()"),
    _BREAK.format("no_such.f()"),
]


@pytest.fixture
async def works(connection: Any, pool: Pool) -> AsyncIterator[None]:
    """Have the pool's connections act as a role with grants of its own."""
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(
        "CREATE ROLE works; GRANT ALL ON ALL TABLES IN SCHEMA public TO works;"
        " GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO works"
    )
    await connection.execute(f"ALTER DATABASE {name} SET role = works")
    yield
    await connection.execute("DROP OWNED BY works; DROP ROLE works")


def a_ledger(database: Any) -> Ledger:
    """Return a ledger on a pool of *database*."""
    return Ledger(database, JOBS, worker_id="w")


@pytest.mark.usefixtures("works")
@pytest.mark.parametrize("missing", MISSING, ids=["grant", "table", "column", "function", "schema"])
async def test_what_a_handler_may_not_do_is_its_job_types_failure(pool: Pool, connection: Any, missing: str) -> None:
    """Its jobs are tried again and fail in the end; other types go on, and the worker goes on claiming."""
    await connection.execute(missing)
    acting = await Pool.open(pool.config)
    ledger = a_ledger(acting)
    async with asyncio.timeout(10):
        (again,) = await ledger.settle("create_user", [a_job(a_user("ada"), "a")])
        assert not ledger.database_is_away
        (failed,) = await ledger.settle("create_user", [a_job(a_user("eve"), "b", is_last_attempt=True)])
        (other,) = await ledger.settle("create_product", [a_job(a_product("tea"), "c")])
    await acting.close()

    assert isinstance(again, RetryLater)
    assert isinstance(failed, Failed)
    assert "PostgreSQL refuses its statement" in failed.error
    assert isinstance(other, Applied)


async def test_a_commit_that_is_refused_is_its_job_types_failure(pool: Pool, connection: Any) -> None:
    """By a trigger that runs at the end of the transaction."""
    await connection.execute(
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM 1 FROM no_such; RETURN NULL; END';"
        "CREATE CONSTRAINT TRIGGER broken AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION broken()"
    )
    async with asyncio.timeout(10):
        (outcome,) = await a_ledger(pool).settle("create_user", [a_job(a_user("ada"), "a", is_last_attempt=True)])
    assert isinstance(outcome, Failed)
    assert "PostgreSQL refuses its commit" in outcome.error


@pytest.mark.parametrize(
    ("taken", "given"),
    [
        ("ALTER TABLE job_results RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO job_results"),
        ("ALTER TABLE job_results RENAME args TO others", "ALTER TABLE job_results RENAME others TO args"),
    ],
    ids=["table", "column"],
)
async def test_what_the_ledger_may_not_do_is_waited_for(pool: Pool, connection: Any, taken: str, given: str) -> None:
    """Nobody's job is at fault: no try is spent, the worker claims no more, and goes on when it is mended."""
    await connection.execute(taken)
    ledger = a_ledger(pool)
    async with asyncio.timeout(10):
        settling = asyncio.create_task(ledger.settle("create_user", [a_job(a_user("ada"), "a", is_last_attempt=True)]))
        while not ledger.database_is_away and not settling.done():
            await asyncio.sleep(0.01)
        assert not settling.done()
        await connection.execute(given)
        (outcome,) = await settling
    assert isinstance(outcome, Applied)
