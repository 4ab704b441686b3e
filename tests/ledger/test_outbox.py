"""Jobs that are enqueued in a transaction of the caller, whichever library has begun it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

import asyncpg
import psycopg
import pytest
from factories import an_outbox_job, user_fields
from roles import READ, ROLES, WORK, as_role
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from tidepool.ledger.outbox import write, write_now
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from tidepool.queue import wire
from tidepool.urls import PostgresUrl

JOBS = [an_outbox_job("a", username="a:$1%(p1)s"), an_outbox_job("b", due_ms=1_900_000_000_000)]
PLACE = {"schema": "public", "queue_name": "arq:queue"}
Holder = Callable[[PoolConfig, bool], Awaitable[None]]
"""Writes the jobs in a transaction, and commits it if the second argument is true."""


@asynccontextmanager
async def engine_of(database: PoolConfig) -> AsyncIterator[Any]:
    """Give an engine of SQLAlchemy on asyncpg."""
    options = PostgresUrl.parse(database.url).driver_arguments()
    engine = create_async_engine("postgresql+asyncpg://", connect_args=options)
    yield engine
    await engine.dispose()


async def _end(transaction: Any, commits: bool) -> None:  # noqa: FBT001
    await (transaction.commit() if commits else transaction.rollback())


async def asyncpg_connection(database: PoolConfig, commits: bool) -> None:  # noqa: FBT001
    """Use a connection of asyncpg, which has a codec for JSON as applications set one."""
    connection = await database.connect("test")
    codec: Any = connection
    await codec.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    transaction: Any = connection.transaction()
    await transaction.start()
    await write(connection, JOBS, **PLACE)
    await _end(transaction, commits)
    await connection.close()


async def asyncpg_pool(database: PoolConfig, commits: bool) -> None:  # noqa: FBT001
    """Use a connection that asyncpg's pool has lent."""
    async with (
        asyncpg.create_pool(**PostgresUrl.parse(database.url).driver_arguments(), min_size=1) as pool,
        pool.acquire() as lent,
    ):
        transaction = lent.transaction()
        await transaction.start()
        await write(lent, JOBS, **PLACE)
        await _end(transaction, commits)


async def job_transaction(database: PoolConfig, commits: bool) -> None:  # noqa: FBT001
    """Use the transaction that a handler gets."""
    pool = await Pool.open(database)
    with nullcontext() if commits else pytest.raises(ZeroDivisionError):
        async with pool.transaction() as transaction:
            await write(transaction, JOBS, **PLACE)
            assert 1 // int(commits)
    await pool.close()


async def async_session(database: PoolConfig, commits: bool) -> None:  # noqa: FBT001
    """Use a session that has not begun yet."""
    async with engine_of(database) as engine, AsyncSession(engine) as session:
        await write(session, JOBS, **PLACE)
        await _end(session, commits)


async def scoped(database: PoolConfig, commits: bool) -> None:  # noqa: FBT001
    """Use a registry of sessions, which stands for the one of the task."""
    async with engine_of(database) as engine:
        sessions = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        await write(sessions, JOBS, **PLACE)
        await _end(sessions, commits)
        await sessions.remove()


async def async_connection(database: PoolConfig, commits: bool) -> None:  # noqa: FBT001
    """Use a connection of an engine."""
    async with engine_of(database) as engine, engine.connect() as connection:
        await write(connection, JOBS, **PLACE)
        await _end(connection, commits)


async def session(database: PoolConfig, commits: bool) -> None:  # noqa: FBT001
    """Use a session without asyncio, on psycopg."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database.url))
    with Session(engine) as one:
        write_now(one, JOBS, **PLACE)
        (one.commit if commits else one.rollback)()
    engine.dispose()


async def connection_of_engine(database: PoolConfig, commits: bool) -> None:  # noqa: FBT001
    """Use a connection without asyncio, on psycopg."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database.url))
    with engine.connect() as one:
        write_now(one, JOBS, **PLACE)
        (one.commit if commits else one.rollback)()
    engine.dispose()


async def psycopg_async(database: PoolConfig, commits: bool) -> None:  # noqa: FBT001
    """Use a connection of psycopg."""
    async with await psycopg.AsyncConnection.connect(database.url) as connection:
        await write(connection, JOBS, **PLACE)
        await _end(connection, commits)


async def psycopg_now(database: PoolConfig, commits: bool) -> None:  # noqa: FBT001
    """Use a connection of psycopg without asyncio, in autocommit mode but in a transaction."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("BEGIN")
        write_now(connection, JOBS, **PLACE)
        (connection.commit if commits else connection.rollback)()


HOLDERS = (
    *(asyncpg_connection, asyncpg_pool, job_transaction, async_session, scoped, async_connection),
    *(session, connection_of_engine, psycopg_async, psycopg_now),
)


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: holder.__name__)
async def test_a_job_is_in_the_outbox_if_the_transaction_commits(
    database: PoolConfig, connection: Any, holder: Holder
) -> None:
    """As it was written, byte by byte; and not if it is rolled back."""
    await holder(database, False)  # noqa: FBT003
    assert [] == await connection.fetch("SELECT FROM job_outbox")
    await holder(database, True)  # noqa: FBT003
    found = await connection.fetch("SELECT * FROM job_outbox ORDER BY id")
    assert [(*job, "arq:queue", None) for job in JOBS] == [
        tuple(row[name] for name in (*JOBS[0]._fields, "queue_name", "relayed_at")) for row in found
    ]


async def test_a_connection_outside_a_transaction_is_refused(database: PoolConfig, connection: Any) -> None:
    """The job would be enqueued although what follows is rolled back."""
    with pytest.raises(RuntimeError, match=r"in no transaction.*async with connection.transaction"):
        await write(connection, JOBS, **PLACE)
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as automatic:
        with pytest.raises(RuntimeError, match="in no transaction"):
            await write(automatic, JOBS, **PLACE)
    async with engine_of(database) as engine:
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        async with AsyncSession(autocommit) as session:
            with pytest.raises(RuntimeError, match="AUTOCOMMIT"):
                await write(session, JOBS, **PLACE)
    options = PostgresUrl.parse(database.url).driver_arguments()
    engine = create_async_engine("postgresql+asyncpg://", connect_args=options, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connected:
        with pytest.raises(RuntimeError, match="AUTOCOMMIT"):
            await write(connected, JOBS, **PLACE)
    await engine.dispose()
    assert [] == await connection.fetch("SELECT FROM job_outbox")


async def test_what_has_no_transaction_is_refused(database: PoolConfig, pool: Pool) -> None:
    """With the list of what has one; and so is what needs the other call."""
    for holder in (pool, "session", None):
        with pytest.raises(TypeError, match="asyncpg connection, a job's transaction, an AsyncSession"):
            await write(holder, JOBS, **PLACE)
        with pytest.raises(TypeError, match="asyncpg connection"):
            write_now(holder, JOBS, **PLACE)
    with pytest.raises(TypeError, match="needs an AsyncSession"):
        await write(Session(), JOBS, **PLACE)
    async with engine_of(database) as engine:
        with pytest.raises(TypeError, match="needs a Session"):
            write_now(AsyncSession(engine), JOBS, **PLACE)
    with psycopg.connect(database.url) as connected, pytest.raises(TypeError, match="AsyncConnection"):
        await write(connected, JOBS, **PLACE)


async def test_an_invalid_id_is_refused(connection: Any) -> None:
    """The ledger would keep the outcome under another one."""
    async with connection.transaction():
        with pytest.raises(ValueError, match="printable"):
            await write(connection, [JOBS[0]._replace(job_id="a\x00")], **PLACE)
    with pytest.raises(ValueError, match="printable"):
        an_outbox_job("a\x00")
    with pytest.raises(ValueError, match="larger than 1048576 bytes"):
        an_outbox_job("a", username="x" * 1_048_576)


async def test_plain_sql_enqueues_a_job(connection: Any) -> None:
    """With arguments by name or by position, and in the form in which a client would have sent it."""
    begun_ms = time.time() * 1000
    async with connection.transaction():
        due = datetime.fromtimestamp(1_900_000_000.5, UTC)
        named = await connection.fetchval(
            "SELECT enqueue('create_user', $1, 'ada', 'shop', $2)", json.dumps(user_fields()), due
        )
        made_up = await connection.fetchval("""SELECT public.enqueue('send', '[17, "x"]')""")
        await connection.execute("SELECT enqueue('tick', identity => false)")
    first, second, third = await connection.fetch("SELECT * FROM job_outbox ORDER BY id")
    jobs = [wire.receive(row["payload"]) for row in (first, second, third)]

    assert ("ada", "ada", "shop", 1_900_000_000_500) == (named, first["job_id"], first["queue_name"], first["due_ms"])
    assert (made_up, "arq:queue", None) == (second["job_id"], second["queue_name"], second["due_ms"])
    assert 32 == len(made_up)
    assert [None, None, False] == [job.get("identity") for job in jobs]
    expected = [("create_user", [], user_fields()), ("send", [17, "x"], {}), ("tick", [], {})]
    assert [(name, args, fields) for name, args, fields in expected] == [(job["f"], job["a"], job["k"]) for job in jobs]
    for job, row in zip(jobs, (first, second, third), strict=True):
        assert None is job["t"]
        assert begun_ms - 1000 < row["enqueued_ms"] == job["et"] < begun_ms + 60_000


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("enqueue('send', '17')", "args must be a JSON object or array"),
        ("enqueue('send', NULL)", "args must be a JSON object or array"),
        ("enqueue('send', '{}', 'a b')", "a job id must have"),
        ("enqueue('send', '{}', '')", "a job id must have"),
        ("enqueue('send', jsonb_build_array(repeat('x', 1048576)))", "is larger than 1048576 bytes"),
    ],
)
async def test_plain_sql_is_refused_what_no_worker_takes(connection: Any, call: str, words: str) -> None:
    """In the transaction that would enqueue it."""
    with pytest.raises(asyncpg.PostgresError, match=words):
        await connection.execute(f"SELECT {call}")


async def test_a_trigger_enqueues_a_job(connection: Any) -> None:
    """For rows that come from anywhere."""
    await connection.execute(
        """CREATE TABLE orders_of_others (id bigint);
        CREATE FUNCTION ordered() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM public.enqueue('ship', jsonb_build_object('order_id', NEW.id)); RETURN NULL; END $$;
        CREATE TRIGGER ordered AFTER INSERT ON orders_of_others FOR EACH ROW EXECUTE FUNCTION ordered();
        INSERT INTO orders_of_others VALUES (17)"""
    )
    payload = await connection.fetchval("SELECT payload FROM job_outbox")
    assert {"order_id": 17} == wire.receive(payload)["k"]


async def test_the_role_of_workers_may_use_the_outbox(database: PoolConfig) -> None:
    """And that of readers may not: the payloads have arguments."""
    await ROLES.grant(database, {}, ())
    worker = await as_role(database, WORK).connect("test")
    async with worker.transaction():
        await write(worker, JOBS, **PLACE)
        await worker.execute("SELECT enqueue('send'); UPDATE job_outbox SET relayed_at = now(); DELETE FROM job_outbox")
    await worker.close()
    reader: Any = await as_role(database, READ).connect("test")
    assert "unknown" == await reader.fetchval("SELECT state FROM job_states('{a}')")
    for statement in ("SELECT payload FROM job_outbox", "SELECT enqueue('send')"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(statement)
    await reader.close()
