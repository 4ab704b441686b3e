"""The ledger when the server goes wrong: conflicts, lost connections, and servers that refuse."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from factories import a_job, a_user
from ledgers import CURSED, a_ledger, raising, usernames

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Applied, RetryLater, Verdict
from tidepool.ledger.ledger import ERROR_DELAYS_S
from tidepool.pool.connection import Connection
from tidepool.pool.faults import DatabaseFault, Refused, Unavailable
from tidepool.pool.pool import Pool
from tidepool.storage.results import ResultRepository
from worker.jobs.create_user import CreateUser, create_user


class HeldHandler:
    """A handler that makes its effects, says so, and waits to be let go; it remembers what it was given."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self.batches: list[list[str]] = []
        self.backend = 0

    async def __call__(self, transaction: Any, jobs: Sequence[Job[CreateUser]]) -> list[Verdict]:
        """Create the users."""
        self.batches.append([job.id for job in jobs])
        self.backend = await transaction.fetchval("SELECT pg_backend_pid()")
        verdicts = await create_user(transaction, jobs)
        self.reached.set()
        await self.go.wait()
        return verdicts


class UnluckyPool:
    """A pool whose first transactions fail: before they begin, or when their commit has been made but not heard of."""

    def __init__(
        self, pool: Pool, *, before: int = 0, after: int = 0, fault: type[DatabaseFault] = Unavailable
    ) -> None:
        self._fault = fault
        self._pool = pool
        self._before = before
        self._after = after
        self.transactions = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection, as `Pool.transaction`."""
        self.transactions += 1
        if self._before:
            self._before -= 1
            raise self._fault("the server is away")
        async with self._pool.transaction() as connection:
            yield connection
        if self._after:
            self._after -= 1
            raise Unavailable("the connection was lost in COMMIT")


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03"])
async def test_a_conflict_runs_the_same_batch_again(pool: Pool, connection: Any, sqlstate: str) -> None:
    """Serialization failure, deadlock, lock not available: the same ids, at once, and applied once."""
    await break_inserts(connection, times=2, sqlstate=sqlstate)
    handler = HeldHandler()
    handler.go.set()
    batch = [a_job(a_user("ada"), "a"), a_job(a_user("eve"), "b")]
    outcomes = await a_ledger(pool, handler).settle("create_user", batch)
    assert [Applied, Applied] == [type(outcome) for outcome in outcomes]
    assert [["a", "b"]] * 3 == handler.batches
    assert ["ada", "eve"] == await usernames(connection)


async def test_conflicts_without_end_stay_with_their_job(
    pool: Pool, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some tries the batch is split, like for any other error."""
    monkeypatch.setattr("tidepool.ledger.ledger._MAX_CONFLICTS", 1)
    await break_inserts(connection, times=1_000, sqlstate="40001")
    batch = [a_job(a_user("ada")), a_job(a_user(CURSED))]
    applied, retried = await a_ledger(pool).settle("create_user", batch)
    assert isinstance(applied, Applied)
    assert RetryLater(ERROR_DELAYS_S[0]) == retried


async def test_an_effect_whose_row_cannot_be_written_is_rolled_back(pool: Pool, connection: Any) -> None:
    """They are one transaction: nobody ever sees the user of a job that has no outcome."""
    await connection.execute("ALTER TABLE job_results RENAME COLUMN db_us TO lost")
    ledger = a_ledger(pool)
    async with asyncio.timeout(10):
        settling = asyncio.create_task(ledger.settle("create_user", [a_job(a_user("ada"))]))
        while not ledger.database_is_away and not settling.done():
            await asyncio.sleep(0.01)
        assert [] == await usernames(connection)
        await connection.execute("ALTER TABLE job_results RENAME COLUMN lost TO db_us")
        (outcome,) = await settling
    assert isinstance(outcome, Applied)
    assert ["ada"] == await usernames(connection)


async def test_a_row_whose_effect_cannot_be_committed_is_rolled_back(pool: Pool, connection: Any) -> None:
    """They are one transaction: no job has an outcome without its effect, which the next try would then not bring."""
    await connection.execute(
        """CREATE SEQUENCE commits;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('commits') = 1 THEN RAISE 'unlucky' USING ERRCODE = '40001'; END IF;
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER refused AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse()"""
    )
    (outcome,) = await a_ledger(pool).settle("create_user", [a_job(a_user("ada"))])
    assert isinstance(outcome, Applied)
    assert 2 == await connection.fetchval("SELECT last_value FROM commits")
    assert ["ada"] == await usernames(connection)


async def test_a_read_only_database_is_waited_for(pool: Pool, connection: Any) -> None:
    """As after a failover to a server that is not promoted yet, or on a full disk: no try is spent."""
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    reading = await Pool.open(pool.config)
    ledger = a_ledger(reading)
    async with asyncio.timeout(10):
        settling = asyncio.create_task(ledger.settle("create_user", [a_job(a_user("ada"), is_last_attempt=True)]))
        while not ledger.database_is_away and not settling.done():
            await asyncio.sleep(0.01)
        await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        (outcome,) = await settling
    await reading.close()
    assert isinstance(outcome, Applied)


async def break_inserts(connection: Any, *, times: int, sqlstate: str) -> None:
    """Let the first inserts of the cursed user, or of ada's batch, fail; a sequence counts, as it never rolls back."""
    cursed = CURSED if times > 100 else "ada"
    await connection.execute(f"""
        CREATE SEQUENCE failures;
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF new.username = '{cursed}' AND nextval('failures') <= {times} THEN
                RAISE EXCEPTION 'on purpose' USING ERRCODE = '{sqlstate}';
            END IF;
            RETURN new;
        END $$;
        CREATE TRIGGER fail BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION fail();
    """)


async def test_a_backend_that_is_terminated_in_the_middle_costs_nothing(pool: Pool, connection: Any) -> None:
    """Its effects are rolled back by the server, and the same batch runs again over another connection."""
    handler = HeldHandler()
    batch = [a_job(a_user("ada"), "a"), a_job(a_user("eve"), "b")]
    settling = asyncio.create_task(a_ledger(pool, handler).settle("create_user", batch))
    await handler.reached.wait()
    await connection.execute("SELECT pg_terminate_backend($1, 5000)", handler.backend)
    assert [] == await usernames(connection)
    handler.go.set()
    assert [Applied, Applied] == [type(outcome) for outcome in await settling]
    assert [["a", "b"]] * 2 == handler.batches
    assert ["ada", "eve"] == await usernames(connection)


@pytest.mark.parametrize("fault", [Unavailable, Refused])
async def test_a_server_that_is_away_or_refuses_us_is_waited_for(
    pool: Pool, connection: Any, fault: type[DatabaseFault]
) -> None:
    """Nobody's job is at fault, so no try is spent and nothing is split.

    Jobs failed after five tries when somebody had changed the role's password while a worker ran.
    """
    unlucky = UnluckyPool(pool, before=3, fault=fault)
    outcomes = await a_ledger(unlucky).settle("create_user", [a_job(a_user(n)) for n in ("ada", "eve")])
    assert [Applied, Applied] == [type(outcome) for outcome in outcomes]
    assert 4 == unlucky.transactions
    assert ["ada", "eve"] == await usernames(connection)


async def test_a_server_that_is_back_with_an_error_is_back(pool: Pool) -> None:
    """Else the worker would claim nothing more, until a success that there may be no other batch to bring."""
    unlucky = UnluckyPool(pool, before=1)
    ledger = a_ledger(unlucky, raising(ValueError("a bug")))
    (outcome,) = await ledger.settle("create_user", [a_job(a_user(CURSED))])
    assert isinstance(outcome, RetryLater)
    assert not ledger.database_is_away


async def test_a_commit_that_nobody_heard_of_is_not_made_twice(pool: Pool, connection: Any) -> None:
    """The connection is lost in COMMIT, which the server has made: the second run finds the rows."""
    unlucky = UnluckyPool(pool, after=1)
    ledger = a_ledger(unlucky)
    (outcome,) = await ledger.settle("create_user", [a_job(a_user("ada"))])
    assert Applied({"user_id": await connection.fetchval("SELECT id FROM users")}) == outcome
    assert 2 == unlucky.transactions
    assert 1 == await connection.fetchval("SELECT count(*) FROM job_results")


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DuplicatePreparedStatementError('prepared statement "__asyncpg_stmt_1__" already exists'),
        asyncpg.InvalidSQLStatementNameError('prepared statement "__asyncpg_stmt_1__" does not exist'),
    ],
    ids=["duplicate", "unknown"],
)
@pytest.mark.parametrize("place", ["handler", "ledger"])
async def test_a_poolers_prepared_statements_are_no_jobs_fault(
    pool: Pool, connection: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    """Whichever statement meets it, the database counts as refusing, and even a last try is not spent."""
    errors, write = [error, error], ResultRepository.write
    away: list[bool] = []

    async def handler(transaction: Any, jobs: Sequence[Job[CreateUser]]) -> list[Verdict]:
        away.append(ledger.database_is_away)
        if place == "handler" and errors:
            raised: Any = errors.pop()
            how = f"MESSAGE = '{raised}', ERRCODE = '{raised.sqlstate}'"
            await transaction.execute(f"DO $$ BEGIN RAISE EXCEPTION USING {how}; END $$")
        return await create_user(transaction, jobs)

    async def written(self: ResultRepository, *args: Any, **named: Any) -> int:
        if place == "ledger" and errors:
            raise errors.pop()
        return await write(self, *args, **named)

    monkeypatch.setattr(ResultRepository, "write", written)
    ledger = a_ledger(pool, handler)
    outcomes = await ledger.settle(
        "create_user", [a_job(a_user(name), attempt=5, is_last_attempt=True) for name in ("ada", "bob")]
    )

    assert [Applied, Applied] == [type(outcome) for outcome in outcomes]
    assert [False, True, True] == away
    assert not ledger.database_is_away
    assert ["ada", "bob"] == await usernames(connection)
