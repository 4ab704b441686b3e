"""Checks, when a process starts, that its database has what it needs. If a check fails, waiting cannot help."""

from tidepool.pool.config import PoolConfig
from tidepool.pool.connection import Connection
from tidepool.pool.faults import Refused, translated
from tidepool.storage import queries
from tidepool.storage.migrator import Migrations

_SQL = queries.load("requirements")


async def require(connection: Connection, *, tables: bool = False, writing: bool = False) -> None:
    """Check that the database meets the requirements of a process; raises `Refused` with the reason if it does not.

    With *tables*, all tables and columns that its migrations created must exist. With *writing*, it must accept writes
    (no standby, not read-only) and have the encoding UTF8. It must always allow transactions, which a pooler may not.
    Raises `MigrationError` if it is from before Tidepool's first release.
    """
    async with connection.transaction():  # which a pooler may not allow
        found = await connection.fetchrow(_SQL["read"])
    assert found is not None
    if writing and found["is_standby"]:
        raise Refused("it is a standby, which is read-only: name the primary")
    if writing and found["is_read_only"]:
        raise Refused("it is read-only: default_transaction_read_only is on")
    if writing and found["encoding"] != "UTF8":
        raise Refused(
            f"its encoding, {found['encoding']}, cannot hold every text: make the database with ENCODING 'UTF8'"
        )
    if tables and not found["has_tables"]:
        raise Refused("its tables are missing: `python -m worker migrate` makes them")
    if tables and (missing := await Migrations.missing_parts(connection)):
        raise Refused(f"tables or columns are missing though its migrations are applied: {', '.join(missing)}")


async def check(config: PoolConfig, *, tables: bool = False, writing: bool = False) -> None:
    """Check the same as `require`, over a new connection. Also raises `Unavailable`."""
    connection = await config.connect("start")
    try:
        async with translated():
            await require(connection, tables=tables, writing=writing)
    finally:
        await connection.close()
