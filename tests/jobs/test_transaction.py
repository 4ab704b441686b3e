"""The transaction that a job gets: what it may run there, and whose errors are the database's."""

from typing import Any

import asyncpg
import pytest

from tidepool import Transaction
from tidepool.jobs.outcomes import HandlerError
from tidepool.pool.faults import Unavailable


@pytest.mark.parametrize(
    "query",
    [
        "COMMIT",
        " commit ;",
        "-- a comment\nROLLBACK",
        "/* a\ncomment */ End",
        "SELECT 1; COMMIT",
        "SELECT 'it''s'; ROLLBACK WORK",
        "begin",
        "START TRANSACTION",
        "PREPARE TRANSACTION 'x'",
        "ABORT",
        "SET search_path = x",
        "SET SESSION x = 1",
        "RESET ALL",
        "LISTEN jobs",
        "DISCARD ALL",
    ],
)
async def test_a_job_can_neither_end_its_transaction_nor_change_the_session(connection: Any, query: str) -> None:
    """The ledger commits; and the connection has other users after this one."""
    async with connection.transaction():
        transaction = Transaction(connection)
        for run in (transaction.execute, transaction.fetch, transaction.fetchrow, transaction.fetchval):
            with pytest.raises(RuntimeError, match="job"):
                await run(query)
        with pytest.raises(RuntimeError, match="job"):
            transaction.cursor(query)
        assert 1 == await transaction.fetchval("SELECT 1")


@pytest.mark.parametrize(
    "query",
    [
        "SET LOCAL lock_timeout = 100",
        "SET CONSTRAINTS ALL DEFERRED",
        "SELECT '; COMMIT'",
        "SELECT $x$; commit $x$",
        "DO $$ BEGIN PERFORM 1; END $$",
        "SELECT 1 AS commit",
        "SAVEPOINT mine; ROLLBACK TO mine; ROLLBACK WORK TO SAVEPOINT mine",
        "-- COMMIT\nSELECT 1",
        'SELECT 1 AS "; COMMIT"',
        r"SELECT E'\'; COMMIT'",
    ],
)
async def test_other_statements_are_the_jobs_own(connection: Any, query: str) -> None:
    """Words that end a transaction may be in texts, comments and blocks."""
    async with connection.transaction():
        await Transaction(connection).execute(query)


async def test_its_methods_are_asyncpgs(connection: Any) -> None:
    """Rows, many rows, COPY, cursors and savepoints."""
    async with connection.transaction():
        async with Transaction(connection, "j1", 2) as tx:
            assert ("j1", 2, True) == (tx.job_id, tx.attempt, tx.is_in_transaction())
            await tx.execute("CREATE TEMP TABLE t (n integer) ON COMMIT DROP")
            await tx.executemany("INSERT INTO t VALUES ($1)", [(1,), (2,)])
            await tx.copy_records_to_table("t", records=[(3,)])
            with pytest.raises(asyncpg.DivisionByZeroError):
                async with tx.transaction():
                    await tx.execute("INSERT INTO t SELECT 1 / 0")
            row = await tx.fetchrow("SELECT sum(n) AS total FROM t")
            assert row is not None
            assert 6 == row["total"]
            assert [1, 2, 3] == [row["n"] async for row in tx.cursor("SELECT n FROM t ORDER BY n")]
        assert not tx.is_in_transaction()
        with pytest.raises(RuntimeError, match="the job has ended"):
            await tx.fetch("SELECT 1")


async def test_an_error_of_another_server_is_not_the_databases(connection: Any) -> None:
    """A job may use other databases and services, whose errors have the same classes."""
    for error in (ConnectionResetError("its API"), TimeoutError(), asyncpg.TooManyConnectionsError("elsewhere")):
        with pytest.raises(HandlerError) as raised:
            async with connection.transaction(), Transaction(connection):
                raise error
        assert error is raised.value.__cause__


async def attempt(connection: Any, query: str) -> None:
    """Do what a job might do: try a statement in a savepoint, and raise an error of its own if it fails."""
    async with connection.transaction(), Transaction(connection) as tx:
        try:
            async with tx.transaction():
                await tx.execute(query)
        except asyncpg.PostgresError as error:
            raise ValueError("no order") from error


async def test_an_error_of_a_statement_is_the_databases(connection: Any) -> None:
    """Also if the job raises another error because the connection was lost."""
    with pytest.raises(asyncpg.UndefinedTableError):
        async with connection.transaction(), Transaction(connection) as tx:
            await tx.fetch("SELECT * FROM nothing")
    with pytest.raises(HandlerError, match="ValueError: no order"):
        await attempt(connection, "SELECT 1 / 0")
    with pytest.raises(Unavailable):
        await attempt(connection, "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '57P01'; END $$")
