"""PostgreSQL's roles: what worker/db/roles.sql grants is enough, and no more than that."""

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from commands import Service, stop, until

from worker.db import capacity
from worker.db.pool import PoolConfig, connect
from worker.db.roles import grant_roles, verifier
from worker.db.side_connection import SideConnection
from worker.health.pruner import Pruner

WORK, READ = "tidepool_work", "tidepool_read"


def as_role(database: PoolConfig, role: str) -> PoolConfig:
    """Return *database* as it is reached by *role*."""
    return replace(database, url=database.url.replace("postgres@", f"{role}@"))


@pytest.fixture
async def roles(database: PoolConfig, connection: Any) -> Any:
    """Have the roles, made twice, as after an upgrade."""
    await grant_roles(database, {})
    await grant_roles(database, {})
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
    """Every kind of job, the ledger, a requeue and the figures; the other commands only read."""
    (tmp_path / "commands.jsonl").write_text(
        '{"job": "create_user", "args": {"username": "ada", "email": "ada@x", "full_name": "Ada"}}\n'
        '{"job": "create_product", "args": {"sku": "tea", "name": "Tea", "price": "2.50", "category": "Drinks"}}\n'
        '{"job": "place_order", "args": {"username": "ada", "sku": "tea", "quantity": 2}}\n'
        '{"job": "update_user", "args": {"username": "ada", "full_name": "Ada L."}}\n'
        '{"job": "set_stock", "args": {"sku": "tea", "in_stock": true}}\n'
        '{"job": "create_user", "id": "twin", "args": {"username": "ada", "email": "b@x", "full_name": "B"}}\n'
    )
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


async def test_what_each_worker_does_now_and_then_needs_no_more_either(
    roles: None, database: PoolConfig, connection: Any
) -> None:
    """Pruning, thinning, and counting the server's connections, those of other roles among them."""
    side = SideConnection(as_role(database, WORK), "stats")
    await Pruner(side, results_keep_days=2, snapshots_keep_days=8).run_once()
    seen = await capacity.read(side)
    await side.close()

    assert any(not backends.same_role and backends.application_name == "tests:test" for backends in seen.backends)
    assert seen.max_connections > seen.others > 0


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
    allowed = await connect(as_role(database, role), "test")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await allowed.execute(statement)
    await allowed.close()


async def test_a_grant_that_is_missing_is_one_clear_line(roles: None, database: PoolConfig, service: Service) -> None:
    """An upgrade brought a table, and nobody ran the file again."""
    url = as_role(database, READ).url

    migrated = service.run("worker", "migrate", DATABASE_URL=url)

    assert (2, 1) == (migrated.status, len(migrated.stderr.splitlines()))
    assert "permission denied for " in migrated.stderr


async def test_every_table_is_decided_on(roles: None, connection: Any) -> None:
    """A new one is granted in worker/db/roles.sql."""
    forgotten = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
        " AND NOT has_table_privilege('tidepool_work', oid, 'SELECT')"
        " AND NOT has_table_privilege('tidepool_read', oid, 'SELECT')"
    )
    assert [] == forgotten


async def test_a_password_is_kept_as_postgresql_would_keep_it(roles: None, connection: Any) -> None:
    """And is never sent to it: only what it keeps."""
    await connection.execute(f"ALTER ROLE {WORK} PASSWORD 'geheim!'")
    kept = await connection.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", WORK)
    salt = b64decode(kept.split("$")[1].partition(":")[2])

    assert kept == verifier("geheim!", salt)


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
