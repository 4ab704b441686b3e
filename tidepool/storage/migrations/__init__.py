"""The schema, as numbered SQL files beside this module, each applied once and in order.

Several workers may start at once: what is missing is applied in one transaction together with its rows in
`schema_migrations`, under a lock on that table which only a role that may write it can hold. A database that lacks
nothing is not locked at all. A file that was applied never changes again; a change of the schema is a new file.

Every statement waits for a lock at most `_LOCK_TIMEOUT_MS`, since everybody else's statements queue up behind it. Then
the transaction is rolled back and tried again after a pause, in which the others go on.

Each file from 0006 on says in a line of its own whether processes that do not know it can still work beside it:

    -- older processes: go on
    -- older processes: refuse

They go on if the migration only adds tables, indexes, views, or columns that are nullable or are not written by row.
"""

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, LiteralString, NamedTuple, cast

import asyncpg
import structlog

from tidepool.pool.connection import Connection
from tidepool.pool.faults import Unavailable, translated
from tidepool.pool.pool import PoolConfig, connect
from tidepool.retry import RetryPolicy, retry

log = structlog.get_logger(__name__)

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")
_OLDER = re.compile(r"^-- older processes: (go on|refuse)$", re.MULTILINE)
_PATIENCE_S = 300.0
"""How long one migration may take, and how long one call waits for locks in all."""
_LOCK_TIMEOUT_MS = 500
_PAUSE_S = 1.0
"""Between two tries, so that those who queued behind the last one are served."""

_EXISTS = "SELECT to_regclass('schema_migrations') IS NOT NULL"
_CREATE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""
_LOCAL = """
SELECT pg_backend_pid(), set_config('statement_timeout', '0', true), set_config('lock_timeout', $1, true),
       CASE WHEN current_setting('server_version_num')::integer >= 170000
            THEN set_config('transaction_timeout', '0', true) END"""
"""$1 milliseconds. A role or database may have limits of its own, made for statements that are short."""
_LOCK = "LOCK TABLE schema_migrations IN EXCLUSIVE MODE"
_APPLIED = """
SELECT version, checksum, name, (to_jsonb(m) ->> 'breaks_older')::boolean AS breaks_older
FROM schema_migrations AS m"""
"""By name, since other services' tables of this name have no checksum; as JSON, since that column comes with 0006."""
_WRITE = """
INSERT INTO schema_migrations
SELECT * FROM jsonb_populate_record(null::schema_migrations, $1::jsonb || jsonb_build_object('applied_at', now()))"""
_BLOCKERS = """
SELECT pid, usename, application_name, state, query_start::text
FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids($1))
UNION ALL
SELECT 0, owner, 'prepared transaction ' || gid, 'prepared', prepared::text
FROM pg_prepared_xacts WHERE 0 = ANY (pg_blocking_pids($1)) AND database = current_database()
ORDER BY pid"""
"""A prepared transaction has no process, and is blamed on process 0."""


class MigrationError(Exception):
    """The database's schema and the files do not fit together; the text says which file."""


@dataclass
class _Backend:
    """The server's process that works for us in the present transaction; through a pooler the next has another."""

    pid: int | None = None


class Migration(NamedTuple):
    """One file."""

    version: int
    name: str
    text: LiteralString

    @property
    def checksum(self) -> str:
        """Return the text's SHA-256, which shows a file that was changed after it was applied."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def breaks_older(self) -> bool:
        """Return whether processes that do not know this migration must not work with it."""
        said = _OLDER.search(self.text)
        return said is not None and said[1] == "refuse"


class Applied(NamedTuple):
    """What a database's `schema_migrations` says, compared with the files."""

    missing: list[Migration]
    """The files that are not applied yet, the oldest first."""
    newer: list[str]
    """The migrations that this version does not know and can work with, as `{version}_{name}`."""


def all_migrations() -> list[Migration]:
    """Return every migration, the oldest first. Raises `MigrationError` if a number is missing."""
    found = sorted(
        Migration(int(match[1]), match[2], cast("LiteralString", file.read_text("utf-8")))
        for file in files("tidepool.storage.migrations").iterdir()
        if (match := _FILE.fullmatch(file.name))
    )
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"migrations are not numbered one by one: {[m.version for m in found]}")
    return found


async def migrate(config: PoolConfig) -> list[Migration]:
    """Apply what is missing, and return it.

    Waits up to 300 s for locks that others hold, and logs who they are. Raises `Unavailable` after that and if the
    server is away, and `MigrationError`.
    """
    connection, backend = await connect(config, "migrate"), _Backend()
    try:
        async with translated(), _watched(config, backend):
            applied = await _patiently(connection, backend)
            newer = (await compared(connection)).newer
    finally:
        connection.terminate()
    if newer:
        log.warning(
            "migrations.newer", names=newer, means="the database is newer than this process, which can work with it"
        )
    return applied


async def compared(connection: Connection) -> Applied:
    """Compare the database with the files.

    Raises `MigrationError` if a file was changed after it was applied, or the database has a migration that this
    version does not know and that says that older processes must not work with it.
    """
    applied = {row["version"]: row for row in await connection.fetch(_APPLIED)}
    known = all_migrations()
    unknown = [applied[version] for version in sorted(applied) if version > len(known)]
    for row in unknown:
        if row["breaks_older"]:
            name = _named(row["version"], row["name"])
            raise MigrationError(f"the database has migration {name}, which needs a newer version of this service")
    for migration in known:
        if migration.version in applied and applied[migration.version]["checksum"] != migration.checksum:
            name = _named(migration.version, migration.name)
            raise MigrationError(f"migration {name} was changed after it was applied")
    missing = [migration for migration in known if migration.version not in applied]
    return Applied(missing, [_named(row["version"], row["name"]) for row in unknown])


async def _patiently(connection: Any, backend: _Backend) -> list[Migration]:
    """Apply what is missing, and wait for locks for as long as `_PATIENCE_S`; returns it."""
    passing = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
    policy = RetryPolicy(first_s=_PAUSE_S, max_s=_PAUSE_S, jitter=0.5, deadline_s=_PATIENCE_S)
    try:
        return await retry(lambda: _apply(connection, backend), policy, lambda error: isinstance(error, passing))
    except passing:
        raise Unavailable("a migration waits for a lock; the log says who holds it") from None


async def _apply(connection: Any, backend: _Backend) -> list[Migration]:
    await _create_table(connection, backend)
    async with _bounded(connection, backend):
        if not (await compared(connection)).missing:
            return []
    async with _bounded(connection, backend):
        await connection.execute(_LOCK)
        missing = (await compared(connection)).missing  # somebody else may have been faster
        for migration in missing:
            await connection.execute(migration.text, timeout=_PATIENCE_S)
            await connection.execute(_WRITE, json.dumps(_row(migration)))
    return missing


async def _create_table(connection: Any, backend: _Backend) -> None:
    """Create `schema_migrations` if it is missing.

    If several processes create it at once, all but one fail, with one of several SQLSTATEs (23505, 42P07 and 42710
    were seen): which one depends on the catalogue that they meet in first. Whatever the error, the table is there then.
    """
    try:
        async with _bounded(connection, backend):
            if not await connection.fetchval(_EXISTS):
                await connection.execute(_CREATE)
    except asyncpg.PostgresError:
        if not await connection.fetchval(_EXISTS):
            raise


def _row(migration: Migration) -> dict[str, Any]:
    return {
        "version": migration.version,
        "name": migration.name,
        "checksum": migration.checksum,
        "breaks_older": migration.breaks_older,
    }


@contextlib.asynccontextmanager
async def _bounded(connection: Any, backend: _Backend) -> AsyncGenerator[None]:
    """Run the block in a transaction whose waits for locks are bounded, and whose statements are not."""
    async with connection.transaction(isolation="read_committed"):
        backend.pid = await connection.fetchval(_LOCAL, str(_LOCK_TIMEOUT_MS))
        yield


@contextlib.asynccontextmanager
async def _watched(config: PoolConfig, backend: _Backend) -> AsyncGenerator[None]:
    """Log whom *backend* waits for, over a connection of its own, as long as the block runs."""
    watching = asyncio.create_task(_watch(config, backend), name="watching a migration")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(config: PoolConfig, backend: _Backend) -> None:
    """Log once for each process that *backend* waits for: who it is, and since when; never what it runs."""
    told: set[tuple[int, str]] = set()
    await asyncio.sleep(_LOCK_TIMEOUT_MS / 1000 / 2)  # most migrations wait for nobody, and need no second connection
    watcher = await connect(config, "migrate-watch")
    try:
        while True:
            for row in await watcher.fetch(_BLOCKERS, backend.pid):
                if (key := (row["pid"], row["application_name"])) not in told:
                    log.warning("migration.waits", **dict(row.items()))
                    told.add(key)
            await asyncio.sleep(_LOCK_TIMEOUT_MS / 1000 / 4)
    finally:
        watcher.terminate()


def _named(version: int, name: str) -> str:
    return f"{version:04}_{name}"
