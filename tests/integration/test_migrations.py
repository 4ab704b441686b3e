"""The migrations on a real database: applied once, by whom ever, and never over something unknown."""

import asyncio
from dataclasses import fields
from typing import Any

import pytest

from worker.db.migrations import MigrationError, all_migrations, migrate
from worker.db.orders import Order
from worker.db.pool import PoolConfig, connect
from worker.db.products import Product
from worker.db.results import Entry
from worker.db.users import User

WRITTEN_BY_SQL = {"write_us", "function", "worker_id", "finished_at", "db_us", "requeued_at"}


async def columns(connection: Any, table: str) -> set[str]:
    """Return the names of a table's columns."""
    query = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = $1"
    return {row["column_name"] for row in await connection.fetch(query, table)}


async def test_ten_workers_at_once_apply_each_migration_once(empty_database: PoolConfig) -> None:
    """One applies, nine wait and find nothing to do."""
    applied = await asyncio.gather(*(migrate(empty_database) for _ in range(10)))
    assert [all_migrations()] == [migrations for migrations in applied if migrations]
    assert 10 == len(applied)


async def test_a_second_run_applies_nothing(database: PoolConfig, connection: Any) -> None:
    """And changes nothing that is there."""
    await connection.execute("INSERT INTO users (username, email, full_name) VALUES ('ada', 'a@x', 'Ada')")
    assert [] == await migrate(database)
    assert 1 == await connection.fetchval("SELECT count(*) FROM users")


async def test_what_was_applied_is_written_down(connection: Any) -> None:
    """Version, name and checksum of each file."""
    rows = await connection.fetch("SELECT version, name, checksum FROM schema_migrations ORDER BY version")
    assert [(m.version, m.name, m.checksum) for m in all_migrations()] == [tuple(row) for row in rows]


async def test_a_changed_file_is_refused(database: PoolConfig, connection: Any) -> None:
    """What is in the database is not what the file says."""
    await connection.execute("UPDATE schema_migrations SET checksum = 'other' WHERE version = 1")
    with pytest.raises(MigrationError, match="migration 0001_service was changed after it was applied"):
        await migrate(database)


async def test_a_newer_database_is_refused(database: PoolConfig, connection: Any) -> None:
    """An old worker does not know what the new schema means."""
    await connection.execute("INSERT INTO schema_migrations (version, name, checksum) VALUES (9999, 'later', 'x')")
    with pytest.raises(MigrationError, match="the database has migration 9999, which this version does not know"):
        await migrate(database)


async def test_a_migration_that_fails_leaves_nothing(empty_database: PoolConfig) -> None:
    """Neither half a schema nor a row that says it is there; the next run can apply it."""
    connection = await connect(empty_database, "test")
    await connection.execute("CREATE TABLE pool_snapshots ()")
    with pytest.raises(Exception, match="already exists"):
        await migrate(empty_database)
    assert set() == await columns(connection, "users")
    await connection.execute("DROP TABLE pool_snapshots")
    assert all_migrations() == await migrate(empty_database)
    await connection.close()


async def test_rows_have_the_fields_of_their_classes(connection: Any) -> None:
    """The reading side fills them by name."""
    assert {field.name for field in fields(User)} == await columns(connection, "users")
    assert {field.name for field in fields(Product)} == await columns(connection, "products")
    of_the_product = {"sku", "product_name", "price", "category"}
    assert {field.name for field in fields(Order)} == await columns(connection, "orders") | of_the_product


async def test_a_ledger_row_has_a_place_for_every_field_of_an_entry(connection: Any) -> None:
    """Times in milliseconds become timestamps; the rest keeps its name."""
    entry = {name.removesuffix("_ms") for name in Entry._fields}
    assert entry | WRITTEN_BY_SQL == await columns(connection, "job_results")
