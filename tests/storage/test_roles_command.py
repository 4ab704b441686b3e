"""The command that makes PostgreSQL's roles, their passwords, and grants that are missing."""

from base64 import b64decode
from typing import Any

import pytest
from commands import Service
from roles import READ, ROLES, WORK, as_role

from tidepool.pool.config import PoolConfig


async def test_a_grant_that_is_missing_is_one_clear_line(
    roles: None, database: PoolConfig, connection: Any, service: Service
) -> None:
    """An upgrade brought a migration, which the role that reads may not apply."""
    await connection.execute("DELETE FROM tidepool_migrations WHERE version = 3")
    url = as_role(database, READ).url

    migrated = service.run("worker", "migrate", DATABASE_URL=url)

    assert (2, 1) == (migrated.status, len(migrated.stderr.splitlines()))
    assert "permission denied for " in migrated.stderr


async def test_a_password_is_kept_as_postgresql_would_keep_it(
    roles: None, database: PoolConfig, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password itself is never sent, only its hash."""
    await connection.execute(f"ALTER ROLE {WORK} PASSWORD 'geheim!'")
    kept = await connection.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", WORK)
    salt = b64decode(kept.split("$")[1].partition(":")[2])
    monkeypatch.setattr("secrets.token_bytes", lambda _: salt)
    await connection.execute(f"ALTER ROLE {WORK} PASSWORD NULL")
    await ROLES.grant(database, {WORK: "geheim!"}, ())

    assert kept == await connection.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", WORK)


async def test_the_command_makes_them_too(service: Service, database: PoolConfig, connection: Any) -> None:
    """As its owner, after the migrations, with the passwords that are set; it says so."""
    ended = service.run("worker", "migrate", "--roles", "--json", WORK_PASSWORD="geheim")
    again = service.run("worker", "migrate", "--roles")
    may = await connection.fetchval("SELECT has_table_privilege('tidepool_work', 'job_results', 'INSERT')")
    with_password = await connection.fetch("SELECT rolname FROM pg_authid WHERE rolpassword LIKE 'SCRAM%'")
    await connection.execute(f"DROP OWNED BY {WORK}, {READ}")
    await connection.execute(f"DROP ROLE {WORK}, {READ}")

    assert [WORK] == [row["rolname"] for row in with_password if row["rolname"] in (WORK, READ)]
    assert {"applied": [], "roles": [WORK, READ]} == ended.document
    assert "granted what they need: tidepool_work, tidepool_read" == again.stdout.splitlines()[-1]
    assert may
