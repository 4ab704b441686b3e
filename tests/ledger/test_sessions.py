"""Jobs that work on sessions of SQLAlchemy: their own commits stay, and all of it is committed with the ledger row."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from factories import a_job
from psycopg import AsyncConnection as PsycopgConnection
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tidepool import App, Command, JobType, Reject, Transaction, complete
from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Applied, Failed, Reason, Rejected, RetryLater, Settled
from tidepool.ledger.completion import LEDGER
from tidepool.ledger.ledger import Ledger
from tidepool.pool.config import PoolConfig
from tidepool.sqlalchemy import EnginePool, JobSessions
from tidepool.urls import PostgresUrl


class Base(DeclarativeBase):
    """The models of a test's application."""


class Row(Base):
    """A row with a unique name."""

    __tablename__ = "effects"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class ShopReason(Reason):
    """A reason of the application."""

    TAKEN = "taken", "the name is taken"


SHARES = pytest.mark.parametrize("share", [1, 3])
DRIVERS = pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])


@pytest.fixture
def driver() -> str:
    """Give the driver of the test's engine."""
    return "asyncpg"


@pytest.fixture
async def engine(database: PoolConfig, driver: str) -> AsyncIterator[AsyncEngine]:
    """Give the application's engine, on a database with its table."""
    arguments = PostgresUrl.parse(database.url).driver_arguments()
    if driver == "psycopg":
        arguments = {"async_creator_fn": lambda _text, **options: PsycopgConnection.connect(database.url, **options)}
    engine = create_async_engine(f"postgresql+{driver}://", connect_args=arguments)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


class Bench:
    """An application with one job type, and a ledger that settles its jobs."""

    def __init__(self, pool: Any, sessions: Any, connection: Any) -> None:
        self.app = App(sessions=sessions)
        self._pool = pool
        self._connection = connection
        self.calls = 0

    def declare(self, function: Callable[..., Any], **options: Any) -> JobType[..., Any]:
        """Declare the function of the job type `work`."""
        return self.app.job(name="work", **options)(function)

    async def settle(self, *names: str, lapses: int = 0) -> list[Any]:
        """Settle a job for each of the names, which is also its id, in one batch."""
        batch: list[Job[Any]] = []
        (job_type,) = self.app.job_types
        for name in names:
            job = a_job(job_type.command(name=name), name, function="work")
            job.lapses = lapses
            batch.append(job)
        ledger = Ledger(self._pool, self.app.job_types, worker_id="w", schema="public")
        outcomes = await ledger.settle("work", batch)
        assert not ledger.database_is_away
        return outcomes

    async def effects(self) -> list[str]:
        """Return the names in the table."""
        return [row["name"] for row in await self._connection.fetch("SELECT name FROM effects ORDER BY name")]

    async def ledger(self) -> dict[str, str]:
        """Return the statuses in the ledger by job id."""
        found = await self._connection.fetch("SELECT job_id, status FROM job_results")
        return {row["job_id"]: row["status"] for row in found}


@pytest.fixture
def bench(pool: Any, engine: AsyncEngine, connection: Any) -> Bench:
    """Give an application on the test's engine."""
    return Bench(pool, async_sessionmaker(engine), connection)


def names_of(share: int) -> list[str]:
    """Return the names of as many jobs."""
    return [f"j{number}" for number in range(share)]


async def commits_twice(session: AsyncSession, name: str) -> str:
    """Do as a handler that stores its progress."""
    session.add(Row(name=f"{name}-1"))
    await session.commit()
    session.add(Row(name=f"{name}-2"))
    await session.commit()
    return name


async def commits_then_raises(session: AsyncSession, name: str) -> None:
    """Fail after a commit."""
    await commits_twice(session, name)
    raise ValueError(name)


async def goes_on_after_an_error(session: AsyncSession, name: str) -> None:
    """Meet an error, roll back, write something else and commit."""
    session.add(Row(name=f"{name}-lost"))
    with pytest.raises(DBAPIError):
        await session.execute(text("SELECT 1 / 0"))
    await session.rollback()
    session.add(Row(name=f"{name}-kept"))
    await session.commit()


async def begins(session: AsyncSession, name: str) -> None:
    """Begin a transaction, and a savepoint in it that is undone."""
    async with session.begin():
        session.add(Row(name=name))
        with suppress(ZeroDivisionError):
            async with session.begin_nested():
                session.add(Row(name=f"{name}-undone"))
                await session.flush()
                raise ZeroDivisionError


async def adds(session: AsyncSession, name: str) -> None:
    """Add a row, and leave the rest to the library."""
    session.add(Row(name=name))


@DRIVERS
@SHARES
async def test_a_job_that_commits_twice_has_both_effects(bench: Bench, share: int) -> None:
    """They are there when the ledger has committed."""
    bench.declare(commits_twice, share=share)
    names = names_of(share)
    assert [Applied(name) for name in names] == await bench.settle(*names)
    assert [f"{name}-{n}" for name in names for n in (1, 2)] == await bench.effects()
    assert dict.fromkeys(names, "applied") == await bench.ledger()


@DRIVERS
@SHARES
async def test_a_job_that_commits_and_then_fails_has_no_effect(bench: Bench, share: int) -> None:
    """Nor has it a ledger row: it is tried again."""
    bench.declare(commits_then_raises, share=share)
    outcomes = await bench.settle(*names_of(share))
    assert [RetryLater] * share == [type(outcome) for outcome in outcomes]
    assert [] == await bench.effects()
    assert {} == await bench.ledger()


@DRIVERS
@SHARES
async def test_a_job_that_rolls_back_and_goes_on_has_the_later_effect(bench: Bench, share: int) -> None:
    """As it has in a session of its own."""
    bench.declare(goes_on_after_an_error, share=share)
    names = names_of(share)
    assert [Applied(None)] * share == await bench.settle(*names)
    assert [f"{name}-kept" for name in names] == await bench.effects()
    assert dict.fromkeys(names, "applied") == await bench.ledger()


@DRIVERS
@SHARES
async def test_a_job_may_begin_transactions_and_savepoints(bench: Bench, share: int) -> None:
    """`session.begin()` and `session.begin_nested()` work inside of the job's transaction."""
    bench.declare(begins, share=share)
    names = names_of(share)
    assert [Applied(None)] * share == await bench.settle(*names)
    assert names == await bench.effects()


@DRIVERS
@SHARES
async def test_what_a_job_has_not_committed_is_flushed(bench: Bench, share: int) -> None:
    """The job is the unit of work."""
    bench.declare(adds, share=share)
    names = names_of(share)
    await bench.settle(*names)
    assert names == await bench.effects()


@DRIVERS
@SHARES
async def test_a_redelivered_job_is_not_run_again(bench: Bench, share: int) -> None:
    """Its worker was lost after the commit: the ledger has the outcome."""
    calls: list[str] = []

    async def work(session: AsyncSession, name: str) -> dict[str, str]:
        calls.append(name)
        session.add(Row(name=name))
        return {"name": name}

    bench.declare(work, share=share)
    names = names_of(share)
    first = await bench.settle(*names)
    assert first == await bench.settle(*names, lapses=1) == [Applied({"name": name}) for name in names]
    assert names == calls == await bench.effects()


@SHARES
async def test_a_rejected_job_has_no_effect(bench: Bench, share: int) -> None:
    """Whatever it has committed."""

    async def work(session: AsyncSession, name: str) -> None:
        await commits_twice(session, name)
        raise Reject("no")

    bench.declare(work, share=share)
    names = names_of(share)
    assert [Rejected("no")] * share == await bench.settle(*names)
    assert [] == await bench.effects()
    assert dict.fromkeys(names, "rejected") == await bench.ledger()


@DRIVERS
async def test_of_jobs_that_share_a_transaction_only_the_failing_one_is_undone(bench: Bench) -> None:
    """The others run once."""
    calls: list[str] = []

    async def work(session: AsyncSession, name: str) -> None:
        calls.append(name)
        await (commits_then_raises if name == "bad" else commits_twice)(session, name)

    bench.declare(work, share=3)
    outcomes = await bench.settle("a", "bad", "c")
    assert [Applied, RetryLater, Applied] == [type(outcome) for outcome in outcomes]
    assert ["a-1", "a-2", "c-1", "c-2"] == await bench.effects()
    assert ["a", "bad", "c"] == calls


@DRIVERS
@SHARES
async def test_a_constraint_has_its_reason(bench: Bench, share: int) -> None:
    """Whether the job meets it in a commit, or the library in the flush at the end."""

    async def work(session: AsyncSession, name: str) -> None:
        session.add(Row(name="same"))
        if name == "j1":
            await session.commit()

    bench.declare(work, share=share, constraints={"effects_name_key": ShopReason.TAKEN})
    await bench.settle("first")
    names = names_of(share)
    outcomes = await bench.settle(*names)
    assert [Rejected(ShopReason.TAKEN, "breaks effects_name_key")] * share == outcomes
    assert ["same"] == await bench.effects()


@DRIVERS
async def test_a_lost_connection_spends_no_attempt(bench: Bench) -> None:
    """The job runs again, in a new transaction, as soon as the database answers."""
    runs: list[int] = []

    async def work(session: AsyncSession, name: str) -> None:
        session.add(Row(name=name))
        await session.commit()
        runs.append(1)
        if len(runs) == 1:
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    bench.declare(work, attempts=1)
    assert [Applied(None)] == await bench.settle("a")
    assert ["a"] == await bench.effects()
    assert 2 == len(runs)


@DRIVERS
async def test_a_commit_that_nobody_heard_of_is_not_made_twice(bench: Bench, engine: AsyncEngine) -> None:
    """The connection is lost after COMMIT: the second transaction finds the row, and the function does not run."""
    runs: list[str] = []
    lost: list[str] = []

    async def work(session: AsyncSession, name: str) -> None:
        runs.append(name)
        session.add(Row(name=name))

    def commit(dialect: Any, connection: Any) -> None:
        type(dialect).do_commit(dialect, connection)
        if not lost:
            lost.append("COMMIT")
            raise OperationalError("COMMIT", {}, ConnectionResetError("lost"))

    bench.declare(work)
    dialect: Any = engine.sync_engine.dialect
    dialect.do_commit = lambda connection: commit(dialect, connection)
    assert [Applied(None)] == await bench.settle("a")
    assert (["a"], ["a"], ["COMMIT"]) == (runs, await bench.effects(), lost)
    assert {"a": "applied"} == await bench.ledger()


@SHARES
async def test_a_conflict_runs_the_job_again(bench: Bench, share: int) -> None:
    """Serialization failures and deadlocks are no failure of the job, also if it raises an error of its own then."""
    runs: list[str] = []

    async def work(session: AsyncSession, name: str) -> None:
        runs.append(name)
        session.add(Row(name=name))
        try:
            if len(runs) == 1:
                await session.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$"))
        except DBAPIError as error:
            raise ValueError("its own") from error

    bench.declare(work, share=share, attempts=1)
    names = names_of(share)
    assert [Applied(None)] * share == await bench.settle(*names)
    assert names == await bench.effects()
    assert share + 1 == len(runs)


async def test_an_error_of_another_database_is_the_jobs(bench: Bench, engine: AsyncEngine) -> None:
    """It has the same class as one of the job's own transaction."""

    async def work(session: AsyncSession, name: str) -> None:
        session.add(Row(name=name))
        await session.flush()
        raise IntegrityError("INSERT", {}, ConnectionResetError("elsewhere"))

    bench.declare(work)
    (outcome,) = await bench.settle("a")
    assert isinstance(outcome, RetryLater)
    assert "elsewhere" in outcome.cause


@SHARES
async def test_a_job_that_takes_too_long_is_stopped(bench: Bench, share: int) -> None:
    """While it waits for the database; the others of its transaction have their effects."""

    async def work(session: AsyncSession, name: str) -> None:
        session.add(Row(name=name))
        await session.flush()
        if name == "j0":
            await session.execute(text("SELECT pg_sleep(30)"))

    bench.declare(work, share=share, timeout_s=0.3)
    outcomes = await bench.settle(*names_of(share))
    assert RetryLater(1.0, "took longer than 0.3 s") == outcomes[0]
    assert outcomes[0].cause == "took longer than 0.3 s"
    assert names_of(share)[1:] == await bench.effects()


@DRIVERS
@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "SELECT 1; COMMIT", "SET search_path = x"])
async def test_a_statement_cannot_end_the_transaction(bench: Bench, statement: str) -> None:
    """`text("COMMIT")` would commit past the ledger."""

    async def work(session: AsyncSession, name: str) -> None:
        session.add(Row(name=name))
        await session.flush()
        with pytest.raises(RuntimeError, match="job"):
            await session.execute(text(statement))

    bench.declare(work)
    assert [Applied(None)] == await bench.settle("a")
    assert ["a"] == await bench.effects()


@SHARES
async def test_a_session_ends_with_its_job(bench: Bench, share: int) -> None:
    """It says so; it would write into the transaction of other jobs otherwise."""
    kept: list[AsyncSession] = []

    async def work(session: AsyncSession, name: str) -> None:
        for older in kept:
            with pytest.raises(RuntimeError, match="the job has ended"):
                await older.execute(text("SELECT 1"))
        kept.append(session)
        session.add(Row(name=name))

    bench.declare(work, share=share)
    names = names_of(share)
    assert [Applied(None)] * share == await bench.settle(*names)
    with pytest.raises(RuntimeError, match="the job has ended"):
        await kept[0].execute(text("SELECT 1"))
    assert names == await bench.effects()


@DRIVERS
@SHARES
async def test_a_job_may_work_on_a_connection(bench: Bench, share: int) -> None:
    """It has savepoints, and neither commits nor rolls back; it ends with the job."""
    kept: list[AsyncConnection] = []

    async def work(connection: AsyncConnection, name: str) -> int:
        for older in kept:
            with pytest.raises(Exception, match="not been started"):
                await older.execute(text("SELECT 1"))
        kept.append(connection)
        async with connection.begin_nested():
            await connection.execute(text("INSERT INTO effects (name) VALUES (:name)"), {"name": name})
        return 7

    bench.declare(work, share=share)
    names = names_of(share)
    assert [Applied(7)] * share == await bench.settle(*names)
    assert names == await bench.effects()
    with pytest.raises(Exception, match="not been started"):
        await kept[0].execute(text("SELECT 1"))


@pytest.mark.parametrize("method", ["commit", "rollback"])
async def test_a_connection_does_not_commit_past_the_ledger(bench: Bench, method: str) -> None:
    """The job fails, and all of it is undone."""

    async def work(connection: AsyncConnection, name: str) -> None:
        await connection.execute(text("INSERT INTO effects (name) VALUES (:name)"), {"name": name})
        await getattr(connection, method)()

    bench.declare(work)
    (outcome,) = await bench.settle("a")
    assert isinstance(outcome, RetryLater)
    assert "a job's transaction is committed with its ledger row" in outcome.cause
    assert [] == await bench.effects()


@DRIVERS
@SHARES
async def test_a_plain_function_works_on_a_session_without_asyncio(bench: Bench, share: int) -> None:
    """On the same connection: each statement lets other jobs run."""

    def work(session: Session, name: str) -> str:
        session.add(Row(name=name))
        session.commit()
        session.add(Row(name=f"{name}-2"))
        if name == "j2":
            raise Reject("no")
        return name

    bench.declare(work, share=share)
    outcomes = await bench.settle(*names_of(share))
    assert [Applied("j0"), Applied("j1"), Rejected("no")][:share] == outcomes
    assert ["j0", "j0-2", "j1", "j1-2"][: 2 * share] == await bench.effects()


async def test_a_session_of_a_modules_factory_joins_the_job(pool: Any, engine: AsyncEngine, connection: Any) -> None:
    """Elsewhere it is an ordinary one, which commits for itself."""
    sessions = JobSessions(engine)
    bench = Bench(pool, sessions, connection)

    async def save(name: str) -> None:
        async with sessions() as session:
            session.add(Row(name=name))
            await session.commit()
        async with sessions.begin() as session:
            session.add(Row(name=f"{name}-2"))

    async def work(session: AsyncSession, name: str) -> None:
        session.add(Row(name=f"{name}-own"))
        await save(name)
        async with sessions() as other:
            other.add(Row(name=f"{name}-lost"))
            await other.flush()
        if name == "bad":
            raise ValueError

    bench.declare(work, share=2)
    outcomes = await bench.settle("a", "bad")
    assert [Applied, RetryLater] == [type(outcome) for outcome in outcomes]
    assert ["a", "a-2", "a-own"] == await bench.effects()
    await save("b")
    assert ["a", "a-2", "a-own", "b", "b-2"] == await bench.effects()


async def test_two_sessions_at_a_time_are_refused(pool: Any, engine: AsyncEngine, connection: Any) -> None:
    """In a sentence: the one connection of the job cannot be in two savepoints."""
    sessions = JobSessions(engine)
    bench = Bench(pool, sessions, connection)

    async def save(name: str) -> None:
        async with sessions() as session:
            session.add(Row(name=name))
            await session.flush()
            await asyncio.sleep(0)
            await session.commit()

    async def work(_session: AsyncSession, name: str) -> None:
        await asyncio.gather(save(name), save(f"{name}-2"))

    bench.declare(work)
    (outcome,) = await bench.settle("a")
    assert isinstance(outcome, RetryLater)
    assert "RuntimeError: two sessions at a time in one job" in outcome.cause
    assert [] == await bench.effects()


async def test_a_factory_of_another_engine_does_not_join(
    pool: Any, engine: AsyncEngine, database: PoolConfig, connection: Any
) -> None:
    """It may be that of another database."""
    other = create_async_engine(
        "postgresql+asyncpg://", connect_args=PostgresUrl.parse(database.url).driver_arguments()
    )
    elsewhere = JobSessions(other)
    bench = Bench(pool, async_sessionmaker(engine), connection)

    async def work(session: AsyncSession, name: str) -> None:
        session.add(Row(name=f"{name}-undone"))
        async with elsewhere() as apart:
            apart.add(Row(name=name))
            await apart.commit()
        raise ValueError

    bench.declare(work)
    await bench.settle("a")
    await other.dispose()
    assert ["a"] == await bench.effects()


async def test_the_engines_figures_and_events_go_on(bench: Bench, engine: AsyncEngine) -> None:
    """Its pool counts the connections of jobs, and the application's own listeners are called."""
    pool = EnginePool.of(engine)
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    before = pool.stats.acquire_ok
    bench.declare(commits_twice)
    await bench.settle("a")
    assert 1 == pool.stats.acquire_ok - before
    assert 0 == pool.stats.in_use
    assert 2 == sum(statement.startswith("INSERT INTO effects") for statement in statements)


async def test_an_isolation_level_of_the_engine_does_not_count(pool: Any, engine: AsyncEngine, connection: Any) -> None:
    """The ledger is written for READ COMMITTED, and an engine may be in autocommit mode."""
    bench = Bench(pool, async_sessionmaker(engine.execution_options(isolation_level="AUTOCOMMIT")), connection)
    levels: list[str] = []

    async def work(session: AsyncSession, name: str) -> None:
        session.add(Row(name=name))
        await session.commit()
        levels.append((await session.execute(text("SHOW transaction_isolation"))).scalar_one())
        raise ValueError

    bench.declare(work)
    await bench.settle("a")
    assert ["read committed"] == levels
    assert [] == await bench.effects()


async def test_a_full_engine_is_waited_for(
    pool: Any, database: PoolConfig, connection: Any, engine: AsyncEngine
) -> None:
    """No attempt is spent, as with the worker's own pool."""
    small = create_async_engine(
        "postgresql+asyncpg://",
        connect_args=PostgresUrl.parse(database.url).driver_arguments(),
        pool_size=1,
        max_overflow=0,
        pool_timeout=0.1,
    )
    bench = Bench(pool, async_sessionmaker(small), connection)
    bench.declare(adds, attempts=1)
    taken = await small.connect()
    settling = asyncio.create_task(bench.settle("a"))
    while EnginePool.of(small).stats.acquire_timeouts < 1:
        await asyncio.sleep(0.02)
    await taken.close()
    assert [Applied(None)] == await settling
    await small.dispose()


def test_what_a_job_cannot_work_on_is_refused_with_what_it_can() -> None:
    """When it is declared."""
    app = App(sessions=async_sessionmaker())

    async def of_int(_on: int, name: str) -> None: ...
    async def of_session(_session: AsyncSession, name: str) -> None: ...
    async def of_sync(_session: Session, name: str) -> None: ...
    async def of_engine(_engine: AsyncEngine, name: str) -> None: ...

    with pytest.raises(TypeError, match=r"must be annotated as tidepool\.Transaction, or as AsyncSession, AsyncConn"):
        app.job(of_int)
    with pytest.raises(TypeError, match="of_session works on AsyncSession: App needs sessions=, an async_sessionmaker"):
        App().job(of_session)
    with pytest.raises(TypeError, match="a job that works on a Session is a plain function, without async"):
        app.job(of_sync)
    with pytest.raises(TypeError, match="cannot work on AsyncEngine: use AsyncSession, AsyncConnection or Session"):
        app.job(of_engine)
    with pytest.raises(TypeError, match="sessions: needs an async_sessionmaker of SQLAlchemy"):
        App(sessions=Transaction).job(of_session)


def test_a_batch_on_a_session_is_refused() -> None:
    """A session cannot do with one statement what many jobs ask for."""

    async def work(_session: AsyncSession, _jobs: Sequence[Job[Command]]) -> list[None]: ...

    with pytest.raises(TypeError, match=r"a batch works on a tidepool\.Transaction.* use @app\.job\(share=N\)"):
        App(sessions=async_sessionmaker()).batch(work)


async def test_a_failing_job_is_failed_in_the_ledger(bench: Bench) -> None:
    """Its row is written in a transaction of the same engine."""
    bench.declare(commits_then_raises, retry_on=(KeyError,))
    assert [Failed("ValueError: a")] == await bench.settle("a")
    assert {"a": "failed"} == await bench.ledger()


@DRIVERS
async def test_a_function_completes_its_job_in_a_session(bench: Bench, pool: Any) -> None:
    """What is pending is flushed, and committed with the row; of a second run it is undone, and its errors with it."""

    async def work(_ctx: Any, name: str) -> None: ...

    job_type = bench.app.function(work)
    ledger = Ledger(pool, bench.app.job_types, worker_id="w", schema="public")

    async def run(*names: str) -> None:
        job: Job[Any] = a_job(job_type.command(name="a"), "a", function="work")
        job.is_running = True
        completion = complete({"tidepool": job, LEDGER: ledger})
        async with completion as session:
            assert isinstance(session, AsyncSession)
            session.add_all([Row(name=name) for name in names])
            completion.result = names[0]
        assert Applied(names[0]) == job.settled

    with pytest.raises(Exception, match="effects_name_key"):
        await run("x", "x")
    assert [] == await bench.effects()
    await run("x")
    for names in (("y",), ("x",)):
        with pytest.raises(Settled):
            await run(*names)
    assert ["x"] == await bench.effects()
    assert {"a": "applied"} == await bench.ledger()
