"""The library's tables as a part of an application's own migrations, which Alembic applies."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import asyncpg
import pytest

from tidepool.alembic import upgrade
from tidepool.pool.config import PoolConfig
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.migrator import Migrations

ROOT = Path(__file__).parents[2]
ENVIRONMENT = """
import asyncio
import os

import asyncpg
from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine


def migrate(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def online():
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(os.environ["URL"]))
    async with engine.begin() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(online())
"""
REVISION = """
from alembic import op

import tidepool.alembic

revision, down_revision = {number!r}, {before!r}


def upgrade():
    op.execute("CREATE TABLE users_{number} (login text)")
    tidepool.alembic.upgrade(op, schema="jobs")
"""
Alembic = Callable[..., str]


@pytest.fixture
def alembic(tmp_path: Path, empty_database: PoolConfig) -> Alembic:
    """Give a function that runs `alembic` for an application with two revisions, of which each calls `upgrade`."""
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/revisions\n")
    (tmp_path / "revisions" / "versions").mkdir(parents=True)
    (tmp_path / "revisions" / "env.py").write_text(ENVIRONMENT)
    for number, before in (("1", None), ("2", "1")):
        (tmp_path / "revisions" / "versions" / f"{number}.py").write_text(REVISION.format(number=number, before=before))

    def run(*words: str) -> str:
        environment = {"URL": empty_database.url, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "alembic", *words]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert 0 == ended.returncode, ended.stderr
        return ended.stdout

    return run


async def recorded(connection: Any, schema: str) -> list[Any]:
    """Return what is written down about the applied migrations, without the schema's name."""
    columns = f"set_name, version, name, checksum, breaks_older, replace(columns::text, '{schema}.', '')"
    return [
        tuple(row) for row in await connection.fetch(f"SELECT {columns} FROM {schema}.tidepool_migrations ORDER BY 2")
    ]


async def test_the_applications_migration_makes_the_librarys_tables(
    alembic: Alembic, empty_database: PoolConfig
) -> None:
    """In their schema, beside its own tables; a later revision finds nothing to do, nor does `migrate`."""
    alembic("upgrade", "1")
    alembic("upgrade", "head")
    config = replace(empty_database, schema="jobs")
    side = SideConnection(config, "start")
    await Migrations.require(side, tables=True, writing=True)
    assert [] == await Migrations().migrate(config)
    await Migrations().migrate(replace(empty_database, schema="other"))
    async with side.use() as connection:
        assert await recorded(connection, "other") == await recorded(connection, "jobs")
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        assert ["alembic_version", "users_1", "users_2"] == [row[0] for row in tables]
    await side.close()


async def test_the_sql_that_alembic_prints_makes_them_too(alembic: Alembic, empty_database: PoolConfig) -> None:
    """Its offline mode has no connection to ask what is applied."""
    script = alembic("upgrade", "head", "--sql")
    config = replace(empty_database, schema="jobs")
    connection: Any = await config.connect("psql")
    await connection.execute(script)
    assert [] == await Migrations().migrate(config)
    await Migrations().migrate(replace(empty_database, schema="other"))
    assert await recorded(connection, "other") == await recorded(connection, "jobs")
    await connection.close()


async def test_a_migration_that_fails_takes_the_librarys_tables_with_it(
    alembic: Alembic, empty_database: PoolConfig
) -> None:
    """They commit with the application's revision, or not at all."""
    connection: Any = await empty_database.connect("test")
    await connection.execute("CREATE SCHEMA jobs; CREATE TABLE jobs.turns (id integer)")
    with pytest.raises(AssertionError, match='schema "jobs" has a table turns that another program made'):
        alembic("upgrade", "head")
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.fetch("SELECT * FROM public.users_1")
    await connection.close()


def test_a_schema_must_have_a_name() -> None:
    """It becomes a part of the SQL, where it is never anything else."""
    with pytest.raises(ValueError, match="must consist of"):
        upgrade(Mock(), schema='jobs"; DROP TABLE users; --')
