"""The schema, as numbered SQL files beside this module, applied once each and in order.

Ten workers may start at once: an advisory lock lets one of them apply while the others wait, and each
file commits in one transaction together with its row in `schema_migrations`. A file that was applied
never changes again; a change of the schema is a new file.
"""

import hashlib
import re
from importlib.resources import files
from typing import Any, LiteralString, NamedTuple, cast

from worker.db.connection import Connection
from worker.db.faults import translated
from worker.db.pool import PoolConfig, connect

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")
_LOCK_KEY = 0x7_1DE_9001
_PATIENCE_S = 300.0
"""How long one migration, or the wait for another worker's, may take."""

_PREPARE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""

_APPLIED = "SELECT version, checksum FROM schema_migrations"
"""By name: other services' tables of this name have no checksum."""


class MigrationError(Exception):
    """The database's schema and the files do not fit together; the text says which file."""


class Migration(NamedTuple):
    """One file."""

    version: int
    name: str
    text: LiteralString

    @property
    def checksum(self) -> str:
        """What tells a file that was changed after it was applied."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def all_migrations() -> list[Migration]:
    """Return every migration, the oldest first. Raises `MigrationError` where one is missing."""
    found = sorted(
        Migration(int(match[1]), match[2], cast("LiteralString", file.read_text("utf-8")))
        for file in files("worker.db.migrations").iterdir()
        if (match := _FILE.fullmatch(file.name))
    )
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"migrations are not numbered one by one: {[m.version for m in found]}")
    return found


async def migrate(config: PoolConfig) -> list[Migration]:
    """Apply what is missing; returns what was applied. Raises `Unavailable` and `MigrationError`."""
    connection = await connect(config, "migrate")
    try:
        async with translated():
            await connection.execute("SELECT set_config('statement_timeout', '0', false)")
            await connection.execute("SELECT pg_advisory_lock($1)", _LOCK_KEY, timeout=_PATIENCE_S)
            await connection.execute(_PREPARE)
            return [await _apply(connection, migration) for migration in await missing(connection)]
    finally:
        await connection.close()


async def missing(connection: Connection) -> list[Migration]:
    """Return what is not applied yet. Raises `MigrationError` where the database has something else than the files."""
    applied = {row["version"]: row["checksum"] for row in await connection.fetch(_APPLIED)}
    known = all_migrations()
    if newer := set(applied) - {migration.version for migration in known}:
        raise MigrationError(f"the database has migration {max(newer)}, which this version does not know")
    for migration in known:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise MigrationError(f"migration {migration.version:04}_{migration.name} was changed after it was applied")
    return [migration for migration in known if migration.version not in applied]


async def _apply(connection: Any, migration: Migration) -> Migration:
    async with connection.transaction():
        await connection.execute(migration.text, timeout=_PATIENCE_S)
        await connection.execute(
            "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
            *(migration.version, migration.name, migration.checksum),
        )
    return migration
