"""The migrations on a real database: applied once, by whom ever, and never over something unknown."""

import asyncio
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import asyncpg
import pytest

from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import Unavailable
from tidepool.pool.side_connection import SideConnection
from tidepool.storage import migrator
from tidepool.storage.migrator import MigrationError, Migrations
from tidepool.storage.results import Entry
from worker import app
from worker.tables.orders import Order
from worker.tables.products import Product
from worker.tables.users import User

ALL = app.migrations.all
migrate = app.migrations.migrate
WRITTEN_BY_SQL = {"atomic", "write_us", "function", "worker_id", "finished_at", "db_us", "requeued_at"}


More = Callable[[str], Migrations]


@pytest.fixture
def more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> More:
    """Make the service's migrations with one more, of another application, whose statements are given."""

    def make(text: str) -> Migrations:
        (tmp_path / "more" / "migrations").mkdir(parents=True)
        (tmp_path / "more" / "migrations" / "0001_more.sql").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return Migrations(service="worker.tables", more="more")

    return make


async def columns(connection: Any, table: str) -> set[str]:
    """Return the names of a table's columns."""
    query = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = $1"
    return {row["column_name"] for row in await connection.fetch(query, table)}


async def test_ten_workers_at_once_apply_each_migration_once(empty_database: PoolConfig) -> None:
    """One applies, nine wait and find nothing to do."""
    applied = await asyncio.gather(*(migrate(empty_database) for _ in range(10)))
    assert [ALL] == [migrations for migrations in applied if migrations]
    assert 10 == len(applied)


@pytest.mark.parametrize(
    "create",
    [
        pytest.param("CREATE TABLE tidepool_migrations (version integer)", id="42P07"),
        pytest.param("CREATE TYPE tidepool_migrations AS (version integer)", id="42710"),
        pytest.param(
            "INSERT INTO pg_namespace (oid, nspname, nspowner) SELECT oid, nspname, nspowner FROM pg_namespace",
            id="23505",
        ),
    ],
)
async def test_another_process_creates_the_table_first(
    database: PoolConfig, monkeypatch: pytest.MonkeyPatch, create: str
) -> None:
    """Whichever error of the catalogue a process meets then, it goes on with the table that is there."""
    in_transaction = "current_setting('lock_timeout') <> '0'"  # the look before the table is created finds nothing
    sql = migrator._SQL.of("public")
    monkeypatch.setitem(sql, "exists", f"{sql['exists']} AND NOT ({in_transaction})")
    monkeypatch.setitem(sql, "create", create)
    assert [] == await migrate(database)


async def test_a_second_run_applies_nothing(database: PoolConfig, connection: Any) -> None:
    """It changes no row."""
    await connection.execute("INSERT INTO users (username, email, full_name) VALUES ('ada', 'a@x', 'Ada')")
    assert [] == await migrate(database)
    assert 1 == await connection.fetchval("SELECT count(*) FROM users")


async def test_what_was_applied_is_written_down(connection: Any) -> None:
    """Set, version, name and checksum of each file, the library's before the service's."""
    columns = "set_name, version, name, checksum"
    rows = await connection.fetch(f"SELECT {columns} FROM tidepool_migrations ORDER BY set_name = 'service', version")
    assert [(m.set_name, m.version, m.name, m.checksum) for m in ALL] == [tuple(row) for row in rows]


async def test_a_changed_file_is_refused(database: PoolConfig, connection: Any) -> None:
    """What is in the database is not what the file says."""
    await connection.execute("UPDATE tidepool_migrations SET checksum = 'other' WHERE set_name = 'tidepool'")
    with pytest.raises(MigrationError, match="migration tidepool/0001_ledger was changed after it was applied"):
        await migrate(database)


async def newer(connection: Any, *, breaks_older: bool, set_name: str = "service") -> None:
    """Have a migration of a later version applied."""
    await connection.execute(
        "INSERT INTO tidepool_migrations (set_name, version, name, checksum, breaks_older, columns)"
        " VALUES ($1, 9999, 'later', 'x', $2, '{}')",
        set_name,
        breaks_older,
    )


async def test_a_newer_database_is_refused_if_it_says_so(database: PoolConfig, connection: Any) -> None:
    """An old process does not know what the new schema means."""
    await newer(connection, breaks_older=True)
    with pytest.raises(MigrationError, match="service/9999_later, which needs a newer version of this service"):
        await migrate(database)


async def test_an_old_process_goes_on_with_a_newer_database(
    database: PoolConfig, connection: Any, logs: list[Any]
) -> None:
    """Unless the migration says otherwise; a line of the log names it."""
    await newer(connection, breaks_older=False)
    assert [] == await migrate(database)
    assert ["service/9999_later"] == next(line["names"] for line in logs if line["event"] == "migrations.newer")


async def test_an_up_to_date_database_is_not_locked(database: PoolConfig, connection: Any) -> None:
    """A lock on the table of migrations, or an advisory lock, delays no start."""
    async with asyncio.timeout(5), connection.transaction():
        await connection.execute("LOCK TABLE tidepool_migrations IN SHARE MODE")
        assert [] == await migrate(database)


READS = "SELECT count(*) FROM job_results"


async def test_a_migration_behind_an_open_read_holds_nobody_up(
    database: PoolConfig,
    connection: Any,
    side: SideConnection,
    logs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    more: More,
) -> None:
    """It gives way again and again until the reader is done, and says whom it waits for, but not what that runs."""
    altering = more("ALTER TABLE job_results ADD COLUMN more integer")
    monkeypatch.setattr("tidepool.storage.migrator._LOCK_TIMEOUT_MS", 200)
    monkeypatch.setattr("tidepool.storage.migrator._PAUSE_S", 0.05)
    async with connection.transaction():
        await connection.execute(READS)
        migrating = asyncio.create_task(altering.migrate(database))
        while not [line for line in logs if line["event"] == "migration.waits"]:
            async with asyncio.timeout(3), side.use() as worker:  # not for as long as the reader reads
                await worker.fetchval(READS)
        assert not migrating.done()
    assert ["more/0001_more"] == [str(migration) for migration in await migrating]

    (said,) = [line for line in logs if line["event"] == "migration.waits"]
    assert (connection.get_server_pid(), "tests:test") == (said["pid"], said["application_name"])
    assert {"usename", "state", "query_start"} < set(said)
    assert READS not in str(said)


async def test_a_migration_that_waits_too_long_says_so(
    database: PoolConfig, connection: Any, monkeypatch: pytest.MonkeyPatch, more: More
) -> None:
    """As a server that is away: a start waits on, a command ends with status 2."""
    altering = more("ALTER TABLE job_results ADD COLUMN more integer")
    monkeypatch.setattr("tidepool.storage.migrator._LOCK_TIMEOUT_MS", 10)
    monkeypatch.setattr("tidepool.storage.migrator._PATIENCE_S", 0.2)
    async with connection.transaction():
        await connection.execute(READS)
        with pytest.raises(Unavailable, match="a migration waits for a lock"):
            await altering.migrate(database)


@pytest.mark.parametrize(
    "held",
    ["LOCK TABLE tidepool_migrations", "ALTER TABLE tidepool_migrations ADD COLUMN theirs integer"],
)
async def test_a_lock_on_the_table_of_migrations_is_waited_for_and_logged(
    database: PoolConfig, connection: Any, logs: list[Any], monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    """Even if there is nothing to apply: reading the table has no shorter limit than applying a migration.

    Nor does it matter that the driver does not know the server's process, as through a pooler.
    """
    monkeypatch.setattr("tidepool.storage.migrator._LOCK_TIMEOUT_MS", 100)
    monkeypatch.setattr("tidepool.storage.migrator._PAUSE_S", 0.02)
    monkeypatch.setattr("asyncpg.Connection.get_server_pid", lambda _: 1)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET statement_timeout = '50ms'")
    holder = await connection.fetchval("SELECT pg_backend_pid()")
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(held)
    migrating = asyncio.create_task(migrate(database))
    while not [line for line in logs if line["event"] == "migration.waits"]:
        await asyncio.sleep(0.01)
    assert not migrating.done()
    await transaction.rollback()
    assert [] == await migrating
    assert {holder} == {line["pid"] for line in logs if line["event"] == "migration.waits"}


async def test_the_first_start_waits_for_one_that_makes_the_table(
    empty_database: PoolConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes the table itself if the other one gives up."""
    monkeypatch.setattr("tidepool.storage.migrator._LOCK_TIMEOUT_MS", 50)
    monkeypatch.setattr("tidepool.storage.migrator._PAUSE_S", 0.02)
    first = await empty_database.connect("first")
    await first.execute("BEGIN; CREATE TABLE tidepool_migrations (version integer)")
    migrating = asyncio.create_task(migrate(empty_database))
    waits = "SELECT true FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
    while not await first.fetchval(waits):
        await asyncio.sleep(0.01)
    await first.execute("ROLLBACK")
    assert ALL == await migrating
    await first.close()


async def test_limits_of_the_database_end_no_migration(empty_database: PoolConfig, more: More) -> None:
    """They are made for statements that are short."""
    slow = more("SELECT pg_sleep(0.3)")
    connection = await empty_database.connect("test")
    name = await connection.fetchval("SELECT current_database()")
    limits = ["statement_timeout", "lock_timeout"]
    if connection.get_server_version() >= (17,):
        limits.append("transaction_timeout")
    for limit in limits:
        await connection.execute(f"ALTER DATABASE {name} SET {limit} = '200ms'")
    assert slow.all == await slow.migrate(empty_database)
    await connection.close()


@pytest.mark.parametrize(
    "held",
    [
        "SELECT pg_advisory_lock(119467009)",
        "BEGIN; LOCK TABLE tidepool_migrations IN ACCESS SHARE MODE",
        "BEGIN; SELECT * FROM tidepool_migrations",
    ],
)
async def test_the_role_that_reads_can_hold_no_start(
    database: PoolConfig, connection: Any, held: str, more: More
) -> None:
    """None of the locks that it can take keeps a migration from being applied."""
    adding = more("CREATE TABLE more ()")
    await connection.execute("CREATE ROLE only_reads; GRANT SELECT ON tidepool_migrations TO only_reads")
    await connection.execute("SET ROLE only_reads")
    for stronger in ("ROW EXCLUSIVE", "SHARE", "EXCLUSIVE", "ACCESS EXCLUSIVE"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"DO $$ BEGIN LOCK TABLE tidepool_migrations IN {stronger} MODE; END $$")
    await connection.execute(held)
    try:
        async with asyncio.timeout(5):
            assert ["more/0001_more"] == [str(migration) for migration in await adding.migrate(database)]
    finally:
        await connection.execute("ROLLBACK; RESET ROLE; DROP OWNED BY only_reads; DROP ROLE only_reads")


async def test_migrating_leaves_nothing_behind_in_its_session(
    empty_database: PoolConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a pooler hands the same session on to others: no setting, no lock, no transaction."""
    shared = await empty_database.connect("pooled")
    settings = "SELECT name, setting FROM pg_settings WHERE source = 'session'"
    before = [tuple(row) for row in await shared.fetch(settings)]
    monkeypatch.setattr(shared, "terminate", lambda: None)
    monkeypatch.setattr("tidepool.pool.config.PoolConfig.connect", AsyncMock(return_value=shared))
    monkeypatch.setattr("tidepool.storage.migrator._watch", AsyncMock())

    await migrate(empty_database)

    assert before == [tuple(row) for row in await shared.fetch(settings)]
    assert not shared.is_in_transaction()
    locks = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation <> 'pg_locks'::regclass"
    assert 0 == await shared.fetchval(f"{locks} AND locktype NOT IN ('virtualxid') AND mode <> 'AccessShareLock'")
    await shared.close()


async def test_a_migration_that_fails_leaves_nothing(empty_database: PoolConfig) -> None:
    """Neither half a schema nor a row that says it is there; the next run can apply it."""
    connection = await empty_database.connect("test")
    await connection.execute("CREATE VIEW job_latency AS SELECT 1")
    with pytest.raises(Exception, match="already exists"):
        await migrate(empty_database)
    assert set() == await columns(connection, "job_results")
    await connection.execute("DROP VIEW job_latency")
    assert ALL == await migrate(empty_database)
    await connection.close()


async def test_two_sets_are_applied_one_after_the_other(database: PoolConfig, connection: Any, more: More) -> None:
    """The second can refer to the first's tables. What it does not know of others in the same database is theirs."""
    shop = more("CREATE VIEW applied AS SELECT job_id FROM job_results WHERE status = 'applied'")
    assert ["more/0001_more"] == [str(migration) for migration in await shop.migrate(database)]
    await newer(connection, breaks_older=True, set_name="somebody else's")
    assert [] == await Migrations().migrate(database)
    assert [] == await shop.migrate(database)


async def test_columns_that_a_migration_drops_are_not_missed(database: PoolConfig, connection: Any, more: More) -> None:
    """Those that anybody else drops are."""
    await more("ALTER TABLE users RENAME COLUMN email TO mail; DROP VIEW job_latency").migrate(database)
    assert [] == await Migrations.missing_parts(connection)
    await connection.execute("ALTER TABLE users DROP COLUMN mail, DROP COLUMN full_name")
    assert ["public.users.mail", "public.users.full_name"] == await Migrations.missing_parts(connection)


async def test_rows_have_the_fields_of_their_classes(connection: Any) -> None:
    """The reading side fills them by name."""
    assert {field.name for field in fields(User)} == await columns(connection, "users")
    assert {field.name for field in fields(Product)} == await columns(connection, "products")
    of_the_product = {"sku", "product_name", "price", "category"}
    assert {field.name for field in fields(Order)} == await columns(connection, "orders") | of_the_product


async def test_a_ledger_row_has_a_place_for_every_field_of_an_entry(connection: Any) -> None:
    """Times in milliseconds become timestamps; the rest keeps its name."""
    entry = {name.replace("_at_ms", "_at") for name in Entry._fields}
    assert entry | WRITTEN_BY_SQL == await columns(connection, "job_results")
