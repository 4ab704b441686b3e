"""PostgreSQL's roles: what they may not do."""

from typing import Any

import asyncpg
import pytest
from roles import READ, WORK, as_role

from tidepool.pool.config import PoolConfig

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
    (READ, "DO $$ BEGIN LOCK TABLE tidepool_migrations IN EXCLUSIVE MODE; END $$"),
    (READ, "SELECT * FROM job_results FOR UPDATE"),
    (READ, "SELECT * FROM job_results FOR SHARE"),
    (READ, "SELECT * FROM turns FOR UPDATE"),
    (READ, "INSERT INTO retention VALUES ('results', 0, now())"),
    (READ, "DELETE FROM retention"),
    (READ, "UPDATE tidepool_migrations SET breaks_older = true"),
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
    (WORK, "DO $$ BEGIN LOCK TABLE tidepool_migrations IN EXCLUSIVE MODE; END $$"),
    (WORK, "UPDATE tidepool_migrations SET breaks_older = true"),
    (WORK, "INSERT INTO tidepool_migrations VALUES (99)"),
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
        (WORK, "DELETE FROM tidepool_migrations"),
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
    """With a worker's password one can neither destroy the data nor reach the machine."""
    allowed = await as_role(database, role).connect("test")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await allowed.execute(statement)
    await allowed.close()
