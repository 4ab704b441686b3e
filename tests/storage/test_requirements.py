"""What a start requires of a database: transactions, a full encoding, its tables, and that it can be written."""

import asyncio
from typing import Any

import asyncpg
import pytest
from fake_servers import listening, postgres_that_pools_statements

from tidepool.health.readiness import Readiness
from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import Refused, ServerError, words
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.migrator import Migrations
from worker import app


async def test_a_pooler_in_statement_mode_ends_a_start() -> None:
    """It serves every statement but BEGIN, and looks like a server that cuts connections."""
    async with listening(postgres_that_pools_statements()) as port:
        config = PoolConfig(url=f"postgresql://u@127.0.0.1:{port}/d?sslmode=disable", application_name="t")
        with pytest.raises(Refused, match=r"not allowed in statement pooling mode .*pool_mode"):
            async with asyncio.timeout(5):
                await config.until_available(lambda: check(config), None)


async def check(config: PoolConfig, **needs: bool) -> None:
    """Check the requirements over a connection of its own."""
    side = SideConnection(config, "start")
    try:
        await Migrations.require(side, **needs)
    finally:
        await side.close()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_cannot_hold_any_text_is_refused(connection: Any, encoding: str) -> None:
    """A name that it cannot hold would be the job's fault, later."""
    name = f"odd_{encoding.lower()}"
    await connection.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        " LOCALE_PROVIDER 'libc'"
    )
    try:
        config = PoolConfig(url=(await dsn_of(connection)).replace("/DB?", f"/{name}?"), application_name="t")
        with pytest.raises(Refused, match=f"its encoding, {encoding}, cannot hold every text"):
            await check(config, writing=True)
    finally:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def dsn_of(connection: Any) -> str:
    """Return the URL of the test's server, with DB for a database."""
    directory = await connection.fetchval("SELECT current_setting('unix_socket_directories')")
    return f"postgresql://postgres@/DB?host={directory}&port={await connection.fetchval('SHOW port')}"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP TABLE users CASCADE", "public.users"),
        ("DROP TABLE job_results CASCADE", "public.job_results, public.job_latency"),
        ("ALTER TABLE job_results DROP COLUMN args", "public.job_results.args"),
        ("ALTER TABLE pool_snapshots DROP COLUMN late; DROP TABLE orders", "public.orders, public.pool_snapshots.late"),
        ("DROP VIEW fleet_health", "public.fleet_health"),
    ],
)
async def test_what_was_dropped_is_named(empty_database: PoolConfig, statement: str, words: str) -> None:
    """Tables, views and columns: no migration makes them again, since it is applied, and every job would fail."""
    await app.migrations.migrate(empty_database)
    await check(empty_database, tables=True)
    other = await empty_database.connect("test")
    await other.execute(statement)
    await other.close()
    with pytest.raises(Refused, match=f"though its migrations are applied: {words}$"):
        await check(empty_database, tables=True)


async def test_a_database_without_tables_or_read_only_is_refused(empty_database: PoolConfig) -> None:
    """A program that needs neither may use it."""
    await check(empty_database)
    with pytest.raises(Refused, match="its tables are missing"):
        await check(empty_database, tables=True)
    other = await empty_database.connect("test")
    name = await other.fetchval("SELECT current_database()")
    await other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await other.close()
    await check(empty_database)
    with pytest.raises(Refused, match="it is read-only"):
        await check(empty_database, writing=True)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("CREATE TABLE users (x int)", 'relation "users" already exists'),
        ("CREATE VIEW orders AS SELECT 1 AS id", 'relation "orders" already exists'),
        ("CREATE TABLE tidepool_migrations (version varchar)", 'column "set_name" does not exist'),
        ("CREATE TABLE job_results (id int)", 'the schema "public" has a table job_results that another program made'),
        ("CREATE TABLE retention (id int)", 'the schema "public" has a table retention that another program made'),
    ],
)
async def test_a_schema_of_somebody_elses_is_explained(empty_database: PoolConfig, statement: Any, said: str) -> None:
    """In the server's words, and with what to do."""
    other = await empty_database.connect("test")
    await other.execute(statement)
    await other.close()
    with pytest.raises((ServerError, Refused)) as met:
        await app.migrations.migrate(empty_database)
    assert said in words(met.value)
    assert "give Tidepool a schema of its own with DB_SCHEMA" in words(met.value)
    assert isinstance(met.value.__cause__ or met.value, asyncpg.PostgresError)


async def test_readiness_of_a_database_without_tables_is_a_check(empty_database: PoolConfig) -> None:
    """Whatever PostgreSQL says, the look raises nothing."""
    pool = await Pool.open(empty_database)

    async def answers() -> None:
        """Answer as a Redis that works."""

    readiness = Readiness(answers, app.migrations)
    readiness.watch(pool)
    report = await readiness.look()
    await pool.close()
    assert not report.ready
    assert "tidepool_migrations" in report.checks["postgresql"].reason
