"""Applies the library's migrations inside an application's own migration, for applications that use Alembic.

A revision of the application calls `upgrade`, and so does a later one after each upgrade of the library that brings new
migrations:

    from alembic import op
    import tidepool.alembic

    def upgrade() -> None:
        tidepool.alembic.upgrade(op, schema="tidepool")

The processes of such an application run with MIGRATE_ON_START=false. This module needs SQLAlchemy, which comes with
Alembic; nothing else of the library imports it.
"""

from typing import Protocol

from sqlalchemy import DDL

from tidepool.storage.migrator import Migrations

__all__ = ["upgrade"]


class _Operations(Protocol):
    """The part of Alembic's operations that is used."""

    def execute(self, sqltext: DDL, /) -> object: ...


def upgrade(op: _Operations, schema: str = "tidepool") -> None:
    """Create the library's tables in *schema* (DB_SCHEMA), or apply to them the migrations that they lack.

    *op* is `alembic.op`. Creates the schema if it is missing. Runs in the transaction of the migration; with Alembic's
    offline mode (`--sql`), it becomes a part of the printed SQL. A second call changes nothing. Raises `ValueError` if
    *schema* cannot name a schema.
    """
    for statement in Migrations().script(schema):
        op.execute(DDL(statement.replace("%", "%%")))  # which DDL takes for a place to fill in
