"""PostgreSQL's roles: what tidepool/storage/roles.sql and the job types grant is enough, and no more than that."""

import json
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from commands import Service, stop, until

from tidepool.advice.study import Study
from tidepool.app import App
from tidepool.fleet.capacity import Capacity
from tidepool.health.pruner import Pruner
from tidepool.jobs.command import Command
from tidepool.jobs.job import Job, JobType, JobTypes, Transaction
from tidepool.jobs.outcomes import Applied, Verdict
from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import Refused
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.migrator import Migrations
from tidepool.storage.roles import grant_roles
from tidepool.web.fleet import Fleet
from worker import app
from worker.jobs import JOBS

WORK, READ = "tidepool_work", "tidepool_read"


def as_role(database: PoolConfig, role: str) -> PoolConfig:
    """Return *database* as it is reached by *role*."""
    return replace(database, url=database.url.replace("postgres@", f"{role}@"))


@pytest.fixture
async def roles(database: PoolConfig, connection: Any) -> Any:
    """Have the roles, made twice, as after an upgrade."""
    await grant_roles(database, {}, app.grants)
    await grant_roles(database, {}, app.grants)
    yield
    await connection.execute(f"DROP OWNED BY {WORK}, {READ}")
    await connection.execute(f"DROP ROLE {WORK}, {READ}")


@pytest.fixture
def least(service: Service, database: PoolConfig, roles: None) -> Iterator[Service]:
    """Give the commands as the role that works."""
    service.environment |= {"DATABASE_URL": as_role(database, WORK).url, "MIGRATE_ON_START": "false"}
    yield service
    for worker in service.started:  # before the roles go
        worker.kill()
        worker.wait()


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
    job_type = JobType("charge", Charge, charge, grants=grants)
    shop = App(job_types=JobTypes([job_type]), migrations=Migrations(shop="shop"))
    await shop.migrations.migrate(database)
    await grant_roles(database, {}, shop.grants)
    pool = await Pool.open(as_role(database, WORK))
    job = Job[Charge]("c1", "c1")
    job.command = Charge(cents=7)
    try:
        with nullcontext() if grants else pytest.raises(Refused, match="permission denied for table charges"):
            async with pool.transaction() as transaction:
                assert [Applied({"id": 1})] == await job_type.handler(transaction, [job])
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

    assert any(not backends.same_role and backends.application_name == "tests:test" for backends in seen.backends)
    assert seen.max_connections > seen.others > 0


MORE = [
    (READ, "SELECT * FROM orders"),
    (READ, "SELECT * FROM products"),
    (READ, "INSERT INTO users (username) SELECT 'x'"),
    (READ, "UPDATE pool_snapshots SET size = 0"),
    (READ, "DELETE FROM pool_snapshots"),
    (READ, "DELETE FROM pool_processes"),
    (READ, "DELETE FROM db_snapshots"),
    (READ, "DELETE FROM pool_events"),
    (READ, "TRUNCATE job_results"),
    (READ, "DROP TABLE job_results"),
    (READ, "ALTER TABLE job_results OWNER TO tidepool_read"),
    (READ, "CREATE TABLE mine (id int)"),
    (READ, "CREATE INDEX ON job_results (status)"),
    (READ, "CREATE VIEW v AS SELECT 1"),
    (READ, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$SELECT 1$$"),
    (
        READ,
        "CREATE TRIGGER t BEFORE INSERT ON job_results FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",  # noqa: E501
    ),
    (READ, "DO $$ BEGIN LOCK TABLE job_results IN SHARE MODE; END $$"),
    (READ, "DO $$ BEGIN LOCK TABLE users IN ACCESS SHARE MODE; END $$"),
    (READ, "DO $$ BEGIN LOCK TABLE schema_migrations IN EXCLUSIVE MODE; END $$"),
    (READ, "SELECT * FROM job_results FOR UPDATE"),
    (READ, "SELECT * FROM job_results FOR SHARE"),
    (READ, "SELECT * FROM turns FOR UPDATE"),
    (READ, "INSERT INTO retention VALUES ('results', 0, now())"),
    (READ, "DELETE FROM retention"),
    (READ, "UPDATE schema_migrations SET breaks_older = true"),
    (READ, "CREATE SCHEMA mine"),
    (READ, "CREATE ROLE other"),
    (READ, "ALTER ROLE tidepool_work PASSWORD NULL"),
    (READ, "ALTER ROLE tidepool_read CONNECTION LIMIT -1"),
    (READ, "ALTER ROLE tidepool_read SUPERUSER"),
    (READ, "GRANT tidepool_work TO tidepool_read"),
    (READ, "SET ROLE tidepool_work"),
    (READ, "SET SESSION AUTHORIZATION postgres"),
    (READ, "CREATE DATABASE other"),
    (READ, "ALTER SYSTEM SET fsync = off"),
    (READ, "SELECT pg_reload_conf()"),
    (READ, "COPY job_results TO '/tmp/x'"),
    (READ, "COPY job_results FROM PROGRAM 'cat'"),
    (READ, "SELECT pg_read_file('postgresql.conf')"),
    (READ, "SELECT pg_ls_dir('.')"),
    (READ, "SELECT lo_import('/etc/passwd')"),
    (READ, "SELECT * FROM pg_authid"),
    (READ, "SELECT * FROM pg_shadow"),
    (READ, "SELECT nextval('users_id_seq')"),
    (READ, "SELECT setval('users_id_seq', 1)"),
    (READ, "SET log_statement = 'none'"),
    (READ, "DROP OWNED BY postgres"),
    (WORK, "DELETE FROM products"),
    (WORK, "UPDATE orders SET quantity = 1"),
    (WORK, "DROP TABLE job_results"),
    (WORK, "TRUNCATE job_results"),
    (WORK, "DO $$ BEGIN LOCK TABLE schema_migrations IN EXCLUSIVE MODE; END $$"),
    (WORK, "UPDATE schema_migrations SET breaks_older = true"),
    (WORK, "INSERT INTO schema_migrations VALUES (99)"),
    (WORK, "DELETE FROM turns"),
    (WORK, "INSERT INTO turns VALUES ('x')"),
    (WORK, "DELETE FROM retention"),
    (WORK, "SELECT setval('users_id_seq', 1)"),
    (WORK, "CREATE ROLE other"),
    (WORK, "ALTER ROLE tidepool_read SUPERUSER"),
    (WORK, "GRANT tidepool_read TO tidepool_work"),
    (WORK, "ALTER SYSTEM SET fsync = off"),
    (WORK, "SELECT * FROM pg_authid"),
    (WORK, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$SELECT 1$$"),
    (READ, "REASSIGN OWNED BY postgres TO tidepool_read"),
    (WORK, "REASSIGN OWNED BY postgres TO tidepool_work"),
    (READ, "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION on_ddl()"),
    (WORK, "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION on_ddl()"),
    (WORK, "CREATE EVENT TRIGGER e ON login EXECUTE FUNCTION on_ddl()"),
    (WORK, "ALTER EVENT TRIGGER audit DISABLE"),
    (WORK, "ALTER EVENT TRIGGER audit OWNER TO tidepool_work"),
    (READ, "DROP EVENT TRIGGER audit"),
    (WORK, "CREATE OR REPLACE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'"),
    (WORK, "ALTER FUNCTION on_ddl() SECURITY DEFINER"),
    (WORK, "DROP FUNCTION on_ddl()"),
    (WORK, "ALTER TABLE users ALTER COLUMN id RESTART WITH 1"),
]


async def test_none_of_many_ways_leads_further(roles: None, database: PoolConfig, connection: Any) -> None:
    """To data of others, other roles' rights, the machine, locks that hold others up, or the schema.

    Each is refused for a right that is missing, and not because the statement would be wrong for anybody.
    """
    await connection.execute(
        "CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        "CREATE EVENT TRIGGER audit ON ddl_command_end EXECUTE FUNCTION on_ddl()"
    )
    connections = {role: await as_role(database, role).connect("test") for role in (WORK, READ)}
    allowed: list[tuple[str, str]] = []
    for role, statement in MORE:
        try:
            await connections[role].execute(statement)
            allowed.append((role, statement))
        except asyncpg.InsufficientPrivilegeError:
            pass
    for acting in connections.values():
        await acting.close()
    assert [] == allowed


GRANTED = {
    **dict.fromkeys(("orders", "products", "users"), "INSERT SELECT"),
    **dict.fromkeys(
        ("db_snapshots", "job_results", "pool_events", "pool_processes", "pool_snapshots"),
        "DELETE INSERT SELECT UPDATE",
    ),
    "retention": "INSERT SELECT UPDATE",
    "turns": "SELECT UPDATE",
    **dict.fromkeys(("fleet_health", "job_latency", "pool_health", "schema_migrations"), "SELECT"),
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
    await grant_roles(database, {}, app.grants)
    noted = await connection.fetch("SELECT DISTINCT who FROM changes")
    await connection.execute("DROP EVENT TRIGGER audit")

    assert (0, "", 0) == (ran.status, ran.stderr, ran.document["pending"])
    assert ["postgres"] == [row["who"] for row in noted]


async def test_readers_have_a_connection_limit(roles: None, database: PoolConfig, connection: Any) -> None:
    """So that they cannot use up the server; one that the operator has set is kept."""
    limit = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'tidepool_read'"
    assert 10 == await connection.fetchval(limit)
    await connection.execute(f"ALTER ROLE {READ} CONNECTION LIMIT 3")
    await grant_roles(database, {}, app.grants)
    assert 3 == await connection.fetchval(limit)
    await connection.execute(f"ALTER ROLE {READ} CONNECTION LIMIT -1")
    await grant_roles(database, {}, app.grants)
    assert 10 == await connection.fetchval(limit)


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
    await grant_roles(empty_database, {}, app.grants)
    yield empty_database
    await connection.execute(f"DROP OWNED BY {WORK}, {READ}; DROP ROLE {WORK}, {READ}")
    await connection.close()


@pytest.mark.parametrize("role", [WORK, READ])
async def test_a_hardened_database_is_enough(hardened: PoolConfig, role: str) -> None:
    """Where even connecting and calling functions has to be granted."""
    pool = await Pool.open(as_role(hardened, role))
    assert [] == (await Fleet(pool).get())["processes"]
    async with pool.acquire() as connection:
        now = datetime.now(UTC)
        assert [] == await Study.read(connection, since=now, until=now + timedelta(minutes=1))
        for view in ("pool_health", "fleet_health", "job_latency"):
            await connection.fetch(f"SELECT * FROM {view}")
    await pool.close()


async def test_a_reader_cannot_pass_for_a_worker(roles: None, database: PoolConfig) -> None:
    """Whatever it calls itself, the budget counts it among the others; a worker of another role is one."""
    side = SideConnection(as_role(database, WORK), "stats")
    hiding = await replace(as_role(database, READ), application_name="tidepool:w9").connect("x")
    owner = await replace(database, application_name="tidepool:w8").connect("x")
    seen = await Capacity.read(side)
    for connection in (hiding, owner):
        await connection.close()
    await side.close()
    assert "w9" not in seen.by_worker
    assert 1 == seen.by_worker["w8"]


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (WORK, "DROP TABLE orders"),
        (WORK, "TRUNCATE users"),
        (WORK, "CREATE TABLE mine (id int)"),
        (WORK, "ALTER TABLE job_results DROP COLUMN args"),
        (WORK, "DELETE FROM users"),
        (WORK, "DELETE FROM orders"),
        (WORK, "UPDATE orders SET total_price = 0"),
        (WORK, "UPDATE products SET price = 0"),
        (WORK, "UPDATE users SET username = 'x'"),
        (WORK, "DELETE FROM schema_migrations"),
        (WORK, "COPY users TO PROGRAM 'cat'"),
        (WORK, "SELECT pg_read_file('postgresql.conf')"),
        (WORK, "SET ROLE postgres"),
        (WORK, f"ALTER ROLE {WORK} SUPERUSER"),
        (READ, "SELECT * FROM users"),
        (READ, "DELETE FROM job_results"),
        (READ, "UPDATE job_results SET status = 'failed'"),
        (READ, "INSERT INTO pool_events SELECT * FROM pool_events"),
    ],
)
async def test_more_than_that_is_refused(roles: None, database: PoolConfig, role: str, statement: str) -> None:
    """Whoever gets hold of a worker's password can neither destroy what is there nor reach the machine."""
    allowed = await as_role(database, role).connect("test")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await allowed.execute(statement)
    await allowed.close()


async def test_a_grant_that_is_missing_is_one_clear_line(
    roles: None, database: PoolConfig, connection: Any, service: Service
) -> None:
    """An upgrade brought a migration, which the role that reads may not apply."""
    await connection.execute("DELETE FROM schema_migrations WHERE version = 3")
    url = as_role(database, READ).url

    migrated = service.run("worker", "migrate", DATABASE_URL=url)

    assert (2, 1) == (migrated.status, len(migrated.stderr.splitlines()))
    assert "permission denied for " in migrated.stderr


async def test_every_table_is_decided_on(roles: None, connection: Any) -> None:
    """The library's in tidepool/storage/roles.sql, an application's by the grants of its job types."""
    forgotten = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
        " AND NOT has_table_privilege('tidepool_work', oid, 'SELECT')"
        " AND NOT has_table_privilege('tidepool_read', oid, 'SELECT')"
    )
    assert [] == forgotten


async def test_a_password_is_kept_as_postgresql_would_keep_it(
    roles: None, database: PoolConfig, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is never sent to it: only what it keeps."""
    await connection.execute(f"ALTER ROLE {WORK} PASSWORD 'geheim!'")
    kept = await connection.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", WORK)
    salt = b64decode(kept.split("$")[1].partition(":")[2])
    monkeypatch.setattr("secrets.token_bytes", lambda _: salt)
    await connection.execute(f"ALTER ROLE {WORK} PASSWORD NULL")
    await grant_roles(database, {WORK: "geheim!"}, ())

    assert kept == await connection.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", WORK)


async def test_the_command_makes_them_too(service: Service, database: PoolConfig, connection: Any) -> None:
    """As its owner, after the migrations, with the passwords that are set; it says so."""
    told = service.run("worker", "migrate", "--roles", "--json", WORK_PASSWORD="geheim")
    again = service.run("worker", "migrate", "--roles")
    may = await connection.fetchval("SELECT has_table_privilege('tidepool_work', 'job_results', 'INSERT')")
    with_password = await connection.fetch("SELECT rolname FROM pg_authid WHERE rolpassword LIKE 'SCRAM%'")
    await connection.execute(f"DROP OWNED BY {WORK}, {READ}")
    await connection.execute(f"DROP ROLE {WORK}, {READ}")

    assert [WORK] == [row["rolname"] for row in with_password if row["rolname"] in (WORK, READ)]
    assert {"applied": [], "roles": [WORK, READ]} == told.document
    assert "granted what they need: tidepool_work, tidepool_read" == again.stdout.splitlines()[-1]
    assert may
