"""A database whose default isolation is stricter than PostgreSQL's: reads are repeated, writes have their own level."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from factories import a_job, a_user

from tidepool.jobs.outcomes import Applied
from tidepool.ledger.ledger import Ledger
from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import Conflict
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.repositories import Repositories
from worker.jobs import JOBS

ROOT = Path(__file__).parents[2]
STRICT = ["serializable", "repeatable read"]


@pytest.fixture(params=STRICT)
async def strict(request: pytest.FixtureRequest, database: PoolConfig, connection: Any) -> AsyncIterator[Pool]:
    """Give a pool on a database of a stricter isolation."""
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{request.param}'")
    pool = await Pool.open(database)
    yield pool
    await pool.close()


FAILING = """
CREATE SEQUENCE reads;
CREATE FUNCTION unlucky(state text, times integer) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('reads') <= times THEN RAISE EXCEPTION 'unlucky' USING ERRCODE = state; END IF;
    RETURN 7;
END $$"""


@pytest.mark.parametrize("state", ["40001", "40P01"])
@pytest.mark.parametrize("method", ["execute", "fetch", "fetchrow", "fetchval"])
async def test_a_read_that_conflicts_is_repeated(
    pool: Pool, side: SideConnection, connection: Any, state: str, method: str
) -> None:
    """Over the pool and beside it, by every method: those who read need not know of it."""
    await connection.execute(FAILING)
    for lend in (pool.acquire, side.use):
        await connection.execute("ALTER SEQUENCE reads RESTART")
        async with lend() as reader:
            await getattr(reader, method)(f"SELECT unlucky('{state}', 3)")
        assert 4 == await connection.fetchval("SELECT last_value FROM reads")


async def test_a_conflict_without_end_is_raised(pool: Pool, connection: Any) -> None:
    """After eight tries."""
    await connection.execute(FAILING)
    with pytest.raises(Conflict):
        async with pool.acquire() as reader:
            await reader.fetch("SELECT unlucky('40001', 100)")
    assert 8 == await connection.fetchval("SELECT last_value FROM reads")


async def test_a_statement_in_a_transaction_is_not_repeated_alone(pool: Pool, connection: Any) -> None:
    """What came before it is rolled back: only the whole can be repeated."""
    await connection.execute(FAILING)
    with pytest.raises(Conflict):
        async with pool.transaction() as writer:
            await writer.fetch("SELECT unlucky('40001', 1)")
    assert 1 == await connection.fetchval("SELECT last_value FROM reads")


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_a_commit_that_conflicts_is_no_commit(
    pool: Pool, side: SideConnection, connection: Any, state: str
) -> None:
    """A deferred trigger ends the transaction at its COMMIT: that is raised, and no second COMMIT hides it."""
    await connection.execute(FAILING)
    await connection.execute(
        f"""CREATE TABLE noted (n integer);
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM unlucky('{state}', 2); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER refused AFTER INSERT ON noted DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse()"""
    )
    with pytest.raises(Conflict):
        async with pool.transaction() as writer:
            await writer.execute("INSERT INTO noted VALUES (1)")
    with pytest.raises(Conflict):
        async with side.use() as writer, writer.transaction():
            await writer.execute("INSERT INTO noted VALUES (2)")
    assert 0 == await connection.fetchval("SELECT count(*) FROM noted")


async def test_writes_have_the_isolation_that_they_are_written_for(strict: Pool) -> None:
    """Whatever the database's default is."""
    async with strict.transaction() as writer:
        assert "read committed" == await writer.fetchval("SHOW transaction_isolation")


async def test_readers_and_writers_of_the_same_rows_all_succeed(strict: Pool) -> None:
    """Eight batches and a follower that reads what they write, as a producer with workers does."""
    ledger = Ledger(strict, JOBS, worker_id="w")
    ids = [f"{n}" for n in range(80)]

    async def follow() -> None:
        while True:
            async with strict.acquire() as reader:
                if len(await Repositories(reader).results.finished(ids)) == len(ids):
                    return

    async with asyncio.timeout(30):
        following = asyncio.gather(follow(), follow())
        settled = await asyncio.gather(
            *(ledger.settle("create_user", [a_job(a_user(f"user-{i}"), i) for i in ids[n::8]]) for n in range(8))
        )
        await following
    assert all(isinstance(outcome, Applied) for outcomes in settled for outcome in outcomes)


async def test_what_bounds_a_transaction_ends_with_it(pool: Pool) -> None:
    """A pooler hands the session on: no setting of ours is left in it but those that it was opened with."""
    settings = "SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY name"
    async with pool.acquire() as connection:
        before = [tuple(row) for row in await connection.fetch(settings)]
    async with pool.transaction() as connection:
        version = await connection.fetchval("SELECT current_setting('server_version_num')::integer")
        if version >= 170_000:
            assert "0" != await connection.fetchval("SHOW transaction_timeout")
    async with pool.acquire() as connection:
        assert before == [tuple(row) for row in await connection.fetch(settings)]


def test_no_statement_leaves_anything_in_its_session() -> None:
    """Neither a setting nor a lock nor a subscription; those of the drill's own faults and benchmarks apart."""
    lasting = re.compile(
        r"set_config\([^)]*false\)|\bpg_(?:try_)?advisory_lock\w*\(|\bLISTEN \w|\bSET SESSION\b|CREATE TEMP"
        r"|\bSET (?!LOCAL\b)\w+ (?:=|TO) |\bPREPARE \w+ (?:AS|\()|\bDECLARE \w+ .*WITH HOLD"
    )
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for folder in ("tidepool", "worker", "producer")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".sql") and not {"drill", "bench", "lab"} & set(path.parts)
        for line in path.read_text("utf-8").splitlines()
        if "UPDATE" not in line
        and '"""' not in line
        and "ALTER SYSTEM" not in line  # of a server of the tests' own
        and (match := lasting.search(re.sub(r"--.*|#.*", "", line)))
        and not re.match(r"\s*(?:\"|    )?SET \w+ = ", line)
    ]
    assert [] == found


def test_asyncpg_raises_conflicts_as_expected() -> None:
    """The classes that are repeated are those of the two states."""
    assert ("40001", "40P01") == (asyncpg.SerializationError.sqlstate, asyncpg.DeadlockDetectedError.sqlstate)
