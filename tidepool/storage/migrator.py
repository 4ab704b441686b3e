"""Applies the migrations: numbered SQL files, each applied once and in order.

The library's files are in `migrations/` beside this module; an application has a folder of that name of its own. All
that is missing is applied in one transaction, the library's files first, together with its rows in `schema_migrations`.
Several processes may start at once: they take turns by a lock on that table, which only a role that may write it can
hold. A database that lacks nothing is not locked. A file that was applied never changes again; a change of the schema
is a new file.

Each statement waits for a lock for at most `_LOCK_TIMEOUT_MS`, since everybody else's statements queue up behind it.
Then the transaction is rolled back and tried again after a pause, in which the others go on.

Each file but a set's first says in a line of its own whether processes that do not know it can still work beside it:

    -- older processes: go on
    -- older processes: refuse

They can go on if the migration only adds tables, indexes, views, or columns that are nullable or are not written by
row.
"""

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncGenerator, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import LiteralString, NamedTuple, cast

import asyncpg
import structlog

from tidepool.pool.connection import Connection, DirectConnection, Row
from tidepool.pool.faults import Unavailable, translated
from tidepool.pool.pool import PoolConfig, connect
from tidepool.retry import RetryPolicy, retry

log = structlog.get_logger(__name__)

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")
_OLDER = re.compile(r"^-- older processes: (go on|refuse)$", re.MULTILINE)
_PATIENCE_S = 300.0
"""How long one migration may take, and how long one call waits for locks in all."""
_LOCK_TIMEOUT_MS = 500
"""How long one statement waits for a lock: as long as jobs can be held up without anybody noticing."""
_PAUSE_S = 1.0
"""Between two tries, so that those who queued behind the last one are served."""

_EXISTS = "SELECT to_regclass('schema_migrations') IS NOT NULL"
_CREATE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    set_name     text NOT NULL,                                      -- tidepool, or the application's name for its own
    version      integer NOT NULL,
    name         text NOT NULL,
    checksum     text NOT NULL,
    breaks_older boolean NOT NULL,                                   -- processes that do not know it must not go on
    columns      text[] NOT NULL,                                    -- table.column: what it added and is still there
    applied_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (set_name, version)
)"""
_LOCAL = """
SELECT pg_backend_pid(), set_config('statement_timeout', '0', true), set_config('lock_timeout', $1, true),
       CASE WHEN current_setting('server_version_num')::integer >= 170000
            THEN set_config('transaction_timeout', '0', true) END"""
"""$1 milliseconds. A role or database may have limits of its own, made for statements that are short."""
_LOCK = "LOCK TABLE schema_migrations IN EXCLUSIVE MODE"
_APPLIED = "SELECT checksum, set_name, version, name, breaks_older FROM schema_migrations ORDER BY set_name, version"
"""The checksum first: another program's table of this name lacks it, and one from before the release lacks the set."""
_COLUMNS = """
SELECT relname || '.' || attname AS name, a.xmin = pg_current_xact_id()::xid AS is_new
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f') AND attnum > 0
  AND NOT attisdropped"""
"""The columns of all tables and views; *is_new* are those that this transaction has added or altered."""
_WRITE = """
INSERT INTO schema_migrations (set_name, version, name, checksum, breaks_older, columns)
VALUES ($1, $2, $3, $4, $5, $6)"""
_FORGET = """
UPDATE schema_migrations SET columns = ARRAY(SELECT name FROM unnest(columns) AS name WHERE name <> ALL ($1::text[]))
WHERE columns && $1::text[]"""
"""$1 columns that a migration has dropped."""
_MISSING = """
SELECT CASE WHEN to_regclass(quote_ident(split_part(name, '.', 1))) IS NULL THEN split_part(name, '.', 1) ELSE name END
       AS name
FROM (SELECT set_name, columns FROM schema_migrations) AS applied, unnest(columns) WITH ORDINALITY AS c (name, position)
WHERE NOT EXISTS (
    SELECT FROM pg_attribute
    WHERE attrelid = to_regclass(quote_ident(split_part(name, '.', 1))) AND attname = split_part(name, '.', 2)
      AND NOT attisdropped)
ORDER BY set_name, position"""
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


class Migration(NamedTuple):
    """One file. *set_name* says whose it is: `tidepool`, or the application's name for its own files."""

    set_name: str
    version: int
    name: str
    text: LiteralString

    def __str__(self) -> str:
        return _label(self.set_name, self.version, self.name)

    @property
    def checksum(self) -> str:
        """Return the text's SHA-256, which shows a file that was changed after it was applied."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def breaks_older(self) -> bool:
        """Return whether processes that do not know this migration must not work with it."""
        found = _OLDER.search(self.text)
        return found is not None and found[1] == "refuse"


class SchemaState(NamedTuple):
    """How a database's `schema_migrations` compares with the files."""

    missing: list[Migration]
    """The files that are not applied yet, in the order in which they have to be."""
    newer: list[str]
    """The migrations that this version does not know and can work with, as `{set}/{version}_{name}`."""


@dataclass
class _Backend:
    """The server's process that works for us in the present transaction; through a pooler the next has another."""

    pid: int | None = None


class Migrations:
    """The library's migrations, followed by those of an application.

    `Migrations(shop="shop.tables")` adds the files in the folder `migrations` of the package `shop.tables`, as the set
    `shop` of `schema_migrations`. Sets are applied in the order of the arguments, the library's first.
    """

    def __init__(self, **packages: str) -> None:
        self._packages = {"tidepool": "tidepool.storage", **packages}

    @cached_property
    def all(self) -> list[Migration]:
        """All files in the order in which they are applied. Raises `MigrationError` for a number that is missing."""
        return [migration for name, package in self._packages.items() for migration in _read(name, package)]

    async def migrate(self, config: PoolConfig) -> list[Migration]:
        """Apply the missing migrations and return them.

        Waits up to 300 s for locks of other sessions, and logs which these are. Raises `Unavailable` after that or if
        the server does not answer, and `MigrationError`.
        """
        connection, backend = await connect(config, "migrate"), _Backend()
        try:
            async with translated(), _watched(config, backend):
                applied = await self._patiently(connection, backend)
                newer = (await self.compared(connection)).newer
        finally:
            connection.terminate()
        if newer:
            log.warning(
                "migrations.newer", names=newer, means="the database is newer than this process, which can work with it"
            )
        return applied

    async def compared(self, connection: Connection) -> SchemaState:
        """Compare the database with the files.

        Raises `MigrationError` if a file was changed after it was applied, if the database has a migration that this
        version does not know and that says that older processes must not work with it, or if the database is from
        before Tidepool's first release. Sets of other applications are not looked at.
        """
        with _only_of_a_release():
            rows = await connection.fetch(_APPLIED)
        applied = {(row["set_name"], row["version"]): row for row in rows if row["set_name"] in self._packages}
        known = {(migration.set_name, migration.version): migration for migration in self.all}
        for key, migration in known.items():
            if key in applied and applied[key]["checksum"] != migration.checksum:
                raise MigrationError(f"migration {migration} was changed after it was applied")
        newer = list(_newer(row for key, row in applied.items() if key not in known))
        return SchemaState([migration for key, migration in known.items() if key not in applied], newer)

    @staticmethod
    async def missing_parts(connection: Connection) -> list[str]:
        """Return what migrations have made and is not there any more: tables by name, columns as `{table}.{column}`.

        Raises `MigrationError` if the database is from before Tidepool's first release.
        """
        with _only_of_a_release():
            return list(dict.fromkeys(row["name"] for row in await connection.fetch(_MISSING)))

    async def _patiently(self, connection: DirectConnection, backend: _Backend) -> list[Migration]:
        """Apply what is missing, and wait for locks for as long as `_PATIENCE_S`; returns it."""
        passing = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
        policy = RetryPolicy(first_s=_PAUSE_S, max_s=_PAUSE_S, jitter=0.5, deadline_s=_PATIENCE_S)
        try:
            return await retry(
                lambda: self._apply(connection, backend), policy, lambda error: isinstance(error, passing)
            )
        except passing:
            raise Unavailable("a migration waits for a lock; the log says who holds it") from None

    async def _apply(self, connection: DirectConnection, backend: _Backend) -> list[Migration]:
        await _create_table(connection, backend)
        async with _bounded(connection, backend):
            if not (await self.compared(connection)).missing:
                return []
        async with _bounded(connection, backend):
            await connection.execute(_LOCK)
            missing = (await self.compared(connection)).missing  # somebody else may have been faster
            for migration in missing:
                await _apply_one(connection, migration)
        return missing


def _read(set_name: str, package: str) -> list[Migration]:
    folder = files(package) / "migrations"
    found = sorted(
        Migration(set_name, int(match[1]), match[2], cast("LiteralString", file.read_text("utf-8")))
        for file in folder.iterdir()
        if (match := _FILE.fullmatch(file.name))
    )
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"migrations of {package} are not numbered one by one: {[m.version for m in found]}")
    for migration in found[1:]:
        if not _OLDER.search(migration.text):
            raise MigrationError(f"migration {migration} has no line `-- older processes: go on` or `refuse`")
    return found


def _newer(rows: Iterator[Row]) -> Iterator[str]:
    """Yield the names of migrations that this version does not know. Raises `MigrationError` if one breaks it."""
    for row in rows:
        name = _label(row["set_name"], row["version"], row["name"])
        if row["breaks_older"]:
            raise MigrationError(f"the database has migration {name}, which needs a newer version of this service")
        yield name


@contextlib.contextmanager
def _only_of_a_release() -> Generator[None]:
    """Explain what the block meets in a database that was made before migrations came in sets."""
    try:
        yield
    except asyncpg.UndefinedColumnError as error:
        if '"set_name"' not in str(error):
            raise
        raise MigrationError(
            "a version before the first release made this database, and no later one can use it: make a new database"
            " (the embedded servers keep theirs in DATA_DIR, by default .data: delete it)"
        ) from None


async def _create_table(connection: DirectConnection, backend: _Backend) -> None:
    """Create `schema_migrations` if it is missing.

    If several processes create it at once, all but one fail, with one of several SQLSTATEs (23505, 42P07 and 42710
    were seen): which one depends on the catalogue that they meet in first. Whatever the error, the table is there then.
    """
    try:
        async with _bounded(connection, backend):
            if not await connection.fetchval(_EXISTS):
                await connection.execute(_CREATE)
    except asyncpg.PostgresError:
        if connection.is_closed() or not await connection.fetchval(_EXISTS):
            raise


async def _apply_one(connection: DirectConnection, migration: Migration) -> None:
    """Apply one file, and write down which columns it has added and dropped."""
    before = {row["name"] for row in await connection.fetch(_COLUMNS)}
    await connection.execute(migration.text, timeout=_PATIENCE_S)
    after = await connection.fetch(_COLUMNS)
    if dropped := before.difference(row["name"] for row in after):
        await connection.execute(_FORGET, list(dropped))
    added = [row["name"] for row in after if row["is_new"] and row["name"] not in before]
    set_name, version, name, _text = migration
    await connection.execute(_WRITE, set_name, version, name, migration.checksum, migration.breaks_older, added)


@contextlib.asynccontextmanager
async def _bounded(connection: DirectConnection, backend: _Backend) -> AsyncGenerator[None]:
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
    logged: set[tuple[int, str]] = set()
    await asyncio.sleep(_LOCK_TIMEOUT_MS / 1000 / 2)  # most migrations wait for nobody, and need no second connection
    watcher = await connect(config, "migrate-watch")
    try:
        while True:
            for row in await watcher.fetch(_BLOCKERS, backend.pid):
                if (key := (row["pid"], row["application_name"])) not in logged:
                    log.warning("migration.waits", **dict(row.items()))
                    logged.add(key)
            await asyncio.sleep(_LOCK_TIMEOUT_MS / 1000 / 4)
    finally:
        watcher.terminate()


def _label(set_name: str, version: int, name: str) -> str:
    return f"{set_name}/{version:04}_{name}"
