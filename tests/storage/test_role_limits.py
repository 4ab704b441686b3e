"""PostgreSQL's roles and connections: the limit of the role that reads, and whom the budget counts."""

from dataclasses import replace
from typing import Any

from roles import READ, ROLES, WORK, as_role

from tidepool.fleet.capacity import Capacity
from tidepool.pool.config import PoolConfig
from tidepool.pool.side_connection import SideConnection
from worker import app


async def test_readers_have_a_connection_limit(roles: None, database: PoolConfig, connection: Any) -> None:
    """So that they cannot use up the server; one that the operator has set is kept."""
    limit = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'tidepool_read'"
    assert 10 == await connection.fetchval(limit)
    await connection.execute(f"ALTER ROLE {READ} CONNECTION LIMIT 3")
    await ROLES.grant(database, {}, app.grants)
    assert 3 == await connection.fetchval(limit)
    await connection.execute(f"ALTER ROLE {READ} CONNECTION LIMIT -1")
    await ROLES.grant(database, {}, app.grants)
    assert 10 == await connection.fetchval(limit)


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
