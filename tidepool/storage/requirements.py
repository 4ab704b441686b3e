"""Checks, when a process starts, that the database has what it needs. If a check fails, waiting cannot help."""

from tidepool.pool.faults import Refused
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.migrator import Migrations
from tidepool.storage.queries import Queries

_SQL = Queries("requirements")


async def require(side: SideConnection, *, tables: bool = False, writing: bool = False) -> None:
    """Check, over the connection *side*, that the database can serve this process; raise `Refused` if it cannot.

    With *tables*, all tables and columns that the migrations created must exist. With *writing*, the database must
    accept writes (no standby, not read-only) and have the encoding UTF8. It must always allow transactions, which a
    pooler may not. Raises `Unavailable` if it does not answer.
    """
    async with side.use() as connection:
        async with connection.transaction():  # which a pooler may not allow
            found = await connection.fetchrow(_SQL.of(connection.schema)["read"])
        assert found is not None
        schema, has_tables = connection.schema, found["has_tables"]
        missing = await Migrations.missing_parts(connection) if tables and has_tables else ()
    if writing and found["is_standby"]:
        raise Refused("it is a standby, which is read-only: name the primary")
    if writing and found["is_read_only"]:
        raise Refused("it is read-only: default_transaction_read_only is on")
    if writing and found["encoding"] != "UTF8":
        raise Refused(
            f"its encoding, {found['encoding']}, cannot hold every text: make the database with ENCODING 'UTF8'"
        )
    if tables and not has_tables:
        where = f"the schema {schema} (DB_SCHEMA)"
        raise Refused(f"its tables are missing in {where}: `python -m worker migrate` makes them")
    if missing:
        raise Refused(f"tables or columns are missing though its migrations are applied: {', '.join(missing)}")
