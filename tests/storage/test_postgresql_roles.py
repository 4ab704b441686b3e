"""PostgreSQL's roles: what tidepool/storage/roles.sql and the job types grant is enough, and no more than that."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from commands import Service, stop, until
from roles import READ, ROLES, WORK, as_role

from tidepool.advice.study import Study
from tidepool.app import App
from tidepool.fleet.capacity import Capacity
from tidepool.health.pruner import Pruner
from tidepool.jobs.arguments import Command
from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Applied, Verdict
from tidepool.jobs.transaction import Transaction
from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import Refused
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.migrator import Migrations
from tidepool.storage.roles import Roles
from tidepool.web.fleet import FleetFigures
from worker import app
from worker.jobs import JOBS


async def test_workers_and_producers_need_no_more_than_to_work(
    least: Service, database: PoolConfig, rows: Any, tmp_path: Path
) -> None:
    """Every job type, the ledger, a requeue and the figures; the other commands only read."""
    commands = (
        '{"job": "create_user", "args": {"username": "ada", "email": "ada@x", "full_name": "Ada"}}\n'
        '{"job": "create_product", "args": {"sku": "tea", "name": "Tea", "price": "2.50", "category": "Drinks"}}\n'
        '{"job": "place_order", "args": {"username": "ada", "sku": "tea", "quantity": 2}}\n'
        '{"job": "update_user", "args": {"username": "ada", "full_name": "Ada L."}}\n'
        '{"job": "set_stock", "args": {"sku": "tea", "in_stock": true}}\n'
        '{"job": "create_user", "id": "twin", "args": {"username": "ada", "email": "b@x", "full_name": "B"}}\n'
    )
    (tmp_path / "commands.jsonl").write_text(commands)
    assert {job_type.name for job_type in JOBS} == {json.loads(line)["job"] for line in commands.splitlines()}
    worker = least.start_worker()
    ran = least.run("producer", "--file", str(tmp_path / "commands.jsonl"), "--follow", "--json")
    requeued = least.run("producer", "requeue", "twin", "--json")
    await until(lambda: rows("SELECT FROM pool_snapshots, db_snapshots, pool_processes"))
    status, log = stop(worker)

    assert (0, 6) == (ran.status, ran.document["enqueued"]), ran.stderr
    assert (5, 1) == (ran.document["applied"], ran.document["rejected"])
    assert 1 == requeued.document["requeued"]
    assert 0 == status
    assert "permission denied" not in log
    for role in (WORK, READ):
        least.environment["DATABASE_URL"] = as_role(database, role).url
        for words in (("producer", "results"), ("worker", "snapshots"), ("worker", "pool"), ("worker", "why")):
            read = least.run(*words, "--json")
            assert (0, True) == (read.status, bool(read.document)), read.stderr


class Charge(Command):
    """A job of an application that has a table of its own."""

    cents: int


async def charge(transaction: Transaction, jobs: Sequence[Job[Charge]]) -> list[Verdict]:
    """Insert the charges."""
    query = "INSERT INTO charges (cents) SELECT unnest($1::integer[]) RETURNING id"
    return [Applied({"id": row["id"]}) for row in await transaction.fetch(query, [job.command.cents for job in jobs])]


@pytest.mark.parametrize("grants", [("SELECT, INSERT ON charges",), ()])
async def test_a_job_with_a_table_of_its_own_may_do_what_it_declares(
    database: PoolConfig, connection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grants: tuple[str, ...]
) -> None:
    """The table in the application's migrations, the grants with the job type; without them it may do nothing."""
    (tmp_path / "shop" / "migrations").mkdir(parents=True)
    table = "CREATE TABLE charges (id bigint GENERATED ALWAYS AS IDENTITY, cents integer NOT NULL)"
    (tmp_path / "shop" / "migrations" / "0001_charges.sql").write_text(table)
    monkeypatch.syspath_prepend(tmp_path)
    shop = App(migrations=Migrations(shop="shop"))
    job_type = shop.batch(grants=grants)(charge)
    await shop.migrations.migrate(database)
    await ROLES.grant(database, {}, shop.grants)
    pool = await Pool.open(as_role(database, WORK))
    job = Job[Charge]("c1", "c1")
    job.command = Charge(cents=7)
    try:
        with nullcontext() if grants else pytest.raises(Refused, match="permission denied for table charges"):
            async with pool.transaction() as transaction:
                assert [Applied({"id": 1})] == await job_type(transaction, [job])
    finally:
        await pool.close()
        await connection.execute(f"DROP OWNED BY {WORK}, {READ}; DROP ROLE {WORK}, {READ}")


async def test_what_each_worker_does_now_and_then_needs_no_more_either(
    roles: None, database: PoolConfig, connection: Any
) -> None:
    """Pruning, thinning, and counting the server's connections, those of other roles among them."""
    side = SideConnection(as_role(database, WORK), "stats")
    await Pruner(side, results_keep_days=2, snapshots_keep_days=8).run_once()
    seen = await Capacity.read(side)
    await side.close()

    assert seen.others_of_database > seen.others_of_role, "the test's own connection has another role"
    assert seen.max_connections > seen.others > 0


GRANTED = {
    **dict.fromkeys(("orders", "products", "users"), "INSERT SELECT"),
    **dict.fromkeys(
        ("db_snapshots", "job_results", "pool_events", "pool_processes", "pool_snapshots"),
        "DELETE INSERT SELECT UPDATE",
    ),
    "retention": "INSERT SELECT UPDATE",
    "turns": "SELECT UPDATE",
    "job_outbox": "DELETE INSERT SELECT UPDATE",
    **dict.fromkeys(("fleet_health", "job_latency", "pool_health", "tidepool_migrations"), "SELECT"),
}
"""What the role that works may do, table by table."""
COLUMNS = {
    ("products", "in_stock"),
    *(("users", column) for column in ("email", "full_name", "is_active", "updated_at")),
}
"""The columns that jobs change."""


async def test_the_role_that_works_has_what_is_documented_and_nothing_else(roles: None, connection: Any) -> None:
    """By any way: a grant to it, to PUBLIC, or ownership."""
    tables = await connection.fetch(
        "SELECT relname, string_agg(word, ' ' ORDER BY word) AS may FROM pg_class, unnest(ARRAY['SELECT', 'INSERT',"
        " 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS word"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')"
        " AND has_table_privilege('tidepool_work', oid, word) GROUP BY relname"
    )
    columns = await connection.fetch(
        "SELECT relname, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
        " WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND relkind IN ('r', 'p')"
        " AND has_column_privilege('tidepool_work', attrelid, attnum, 'UPDATE')"
        " AND NOT has_table_privilege('tidepool_work', attrelid, 'UPDATE')"
    )
    memberships = await connection.fetch("SELECT FROM pg_auth_members WHERE member = 'tidepool_work'::regrole")
    assert GRANTED == {row["relname"]: row["may"] for row in tables}
    assert COLUMNS == {(row["relname"], row["attname"]) for row in columns}
    assert [] == memberships


async def test_the_event_triggers_of_an_operator_change_nothing(
    least: Service, database: PoolConfig, connection: Any
) -> None:
    """One that calls a function at each change of the schema, and refuses those of the role that works."""
    await connection.execute(
        "CREATE TABLE changes (tag text, who name);"
        "CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF session_user = 'tidepool_work' THEN RAISE 'no change by %', session_user; END IF;"
        " INSERT INTO changes VALUES (tg_tag, session_user); END $$;"
        "CREATE EVENT TRIGGER audit ON ddl_command_end EXECUTE FUNCTION on_ddl()"
    )
    least.start_worker(STATS_INTERVAL="0.1")
    ran = least.run("producer", "--jobs", "100", "--mix", "create_user=1", "--follow", "--json")
    await ROLES.grant(database, {}, app.grants)
    noted = await connection.fetch("SELECT DISTINCT who FROM changes")
    await connection.execute("DROP EVENT TRIGGER audit")

    assert (0, "", 0) == (ran.status, ran.stderr, ran.document["pending"])
    assert ["postgres"] == [row["who"] for row in noted]


@pytest.fixture
async def hardened(empty_database: PoolConfig) -> Any:
    """Give a database where nobody may do anything that was not granted to them, with tables and roles."""
    connection = await empty_database.connect("test")
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC;"
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"
    )
    await app.migrations.migrate(empty_database)
    await ROLES.grant(empty_database, {}, app.grants)
    yield empty_database
    await connection.execute(f"DROP OWNED BY {WORK}, {READ}; DROP ROLE {WORK}, {READ}")
    await connection.close()


@pytest.mark.parametrize("role", [WORK, READ])
async def test_a_hardened_database_is_enough(hardened: PoolConfig, role: str) -> None:
    """Where even connecting and calling functions has to be granted."""
    pool = await Pool.open(as_role(hardened, role))
    assert [] == (await FleetFigures(pool).get())["processes"]
    async with pool.acquire() as connection:
        now = datetime.now(UTC)
        assert [] == await Study.read(connection, since=now, until=now + timedelta(minutes=1))
        for view in ("pool_health", "fleet_health", "job_latency"):
            await connection.fetch(f"SELECT * FROM {view}")
    await pool.close()


async def test_the_roles_of_another_application_have_other_names(
    empty_database: PoolConfig, connection: Any, roles: None
) -> None:
    """Roles belong to the whole server: with names of its own, an application cannot reach the tables of another."""
    shop, names = replace(empty_database, schema="shop_jobs"), Roles.of("shop")
    await app.migrations.migrate(shop)
    await names.grant(shop, {names.read: "geheim"}, app.grants)
    theirs = await shop.connect("test")
    try:
        for role, may in ((names.work, True), (WORK, False)):
            query = "SELECT has_table_privilege($1, 'shop_jobs.job_results'::regclass, 'INSERT')"
            assert may is await theirs.fetchval(query, role)
        assert not await connection.fetchval("SELECT has_table_privilege('shop_work', 'job_results', 'SELECT')")
    finally:
        await theirs.execute("DROP OWNED BY shop_work, shop_read; DROP ROLE shop_work, shop_read")
        await theirs.close()


async def test_every_table_is_decided_on(roles: None, connection: Any) -> None:
    """The library's in tidepool/storage/roles.sql, an application's by the grants of its job types."""
    forgotten = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
        " AND NOT has_table_privilege('tidepool_work', oid, 'SELECT')"
        " AND NOT has_table_privilege('tidepool_read', oid, 'SELECT')"
    )
    assert [] == forgotten
