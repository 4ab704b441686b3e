"""PostgreSQL's roles for those who work and for those who read; `roles.sql` says what each may."""

from importlib.resources import files
from typing import LiteralString, cast

from worker.db.faults import translated
from worker.db.pool import PoolConfig, connect

ROLES = ("tidepool_work", "tidepool_read")
_SQL = cast("LiteralString", (files("worker.db") / "roles.sql").read_text("utf-8"))


async def grant_roles(config: PoolConfig) -> None:
    """Make the roles that are missing, and grant all of them what they need; *config* is of the tables' owner.

    A second call changes nothing. Raises `Refused` where the owner may not make a role, and `Unavailable`.
    """
    connection = await connect(config, "migrate")
    try:
        async with translated():
            await connection.execute(_SQL)
    finally:
        await connection.close()
