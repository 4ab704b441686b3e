"""Applies the migrations: numbered SQL files, each applied once and in order.

The library's files are in `migrations/` beside this module; an application has a folder of that name of its own. Each
folder's files are a *set*. All missing files are applied in one transaction, the library's first, which also adds a row
for each to the table `tidepool_migrations`, in the schema of the library's tables. In a file, `{schema}` stands for
that schema. Several processes may start at once: they take turns by a lock on that table, which only a role that may
write it can hold. A database that lacks nothing is not locked. A file that was applied never changes again; a change of
the schema is a new file.

Each statement waits for a lock for max `_LOCK_TIMEOUT_MS`, since the statements of all others queue up behind it. Then
the transaction is rolled back and tried again after a pause, in which the others go on.

Each file except the first of a set has a line that says whether older processes, which do not know the file, can go on
working with the database after it:

    -- older processes: go on
    -- older processes: refuse

They can go on if the migration only adds tables, indexes, views or columns. A new column must be nullable if the
processes write whole rows of its table, which set a column that they do not know to null.
"""

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import LiteralString, NamedTuple, cast

import asyncpg
import structlog

from tidepool import identifiers
from tidepool.pool.config import PoolConfig
from tidepool.pool.connection import Connection, DirectConnection, Row
from tidepool.pool.faults import Refused, Unavailable, translated
from tidepool.pool.side_connection import SideConnection
from tidepool.repeating import RetryPolicy
from tidepool.storage.queries import Queries

log = structlog.get_logger(__name__)

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")
_OLDER = re.compile(r"^-- older processes: (go on|refuse)$", re.MULTILINE)
_PART = re.compile(r"\{(set_name|version|name|checksum|breaks_older|text)\}")
"""What `Migration.statement` fills in."""
_COMMENT = re.compile(r"\A(--.*\n)+")
_PATIENCE_S = 300.0
"""Max seconds that one migration may take, and that one call waits for locks in all."""
_LOCK_TIMEOUT_MS = 500
"""Max milliseconds that one statement waits for a lock: so short a delay of jobs is not noticed."""
_PAUSE_S = 1.0
"""Seconds between two tries, in which the statements that queued up behind the last one can run."""
_SQL = Queries("migrations")
_REQUIRED = Queries("requirements")


class MigrationError(Refused):
    """The database's schema does not fit the migration files; the message says which file, and why."""


class Migration(NamedTuple):
    """One migration file. *set_name* is `tidepool` for the library's files, or the name of an application's own set."""

    set_name: str
    version: int
    name: str
    text: LiteralString

    def __str__(self) -> str:
        return _label(self.set_name, self.version, self.name)

    @property
    def checksum(self) -> str:
        """The SHA-256 of the file's text in hexadecimal, which shows whether it was changed after it was applied."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def breaks_older(self) -> bool:
        """Whether older processes, which do not know this migration, must stop working with the database after it."""
        found = _OLDER.search(self.text)
        return found is not None and found[1] == "refuse"

    def statement(self, schema: str) -> LiteralString:
        """Return one SQL statement that applies the file and records it, and does nothing if it is applied already.

        *schema* is that of the library's tables, and must have the table of applied migrations.
        """
        values = {
            "set_name": _quoted(self.set_name),
            "version": str(self.version),
            "name": _quoted(self.name),
            "checksum": _quoted(self.checksum),
            "breaks_older": str(self.breaks_older).lower(),
            "text": identifiers.fill_in(self.text.strip(), schema=schema),
        }
        statement = _PART.sub(lambda part: values[part[1]], _without_comment(_SQL.of(schema)["apply"]))
        return cast("LiteralString", f"-- {self}\n{statement}")


class SchemaState(NamedTuple):
    """Which migrations a database lacks, and which it has that this process does not know."""

    missing: list[Migration]
    """The files that have not been applied yet, in the order in which they must be applied."""
    newer: list[str]
    """The applied migrations that this process does not know but can work with, as `{set}/{version}_{name}`."""


@dataclass
class _Backend:
    """The process id of the PostgreSQL backend that runs the present transaction.

    It can change from one transaction to the next if a pooler is in between.
    """

    pid: int | None = None


class Migrations:
    """All migration files for a database: the library's, followed by those of applications.

    `Migrations(shop="shop.tables")` adds the files in the folder `migrations` of the package `shop.tables`, as the set
    `shop`. Sets are applied in the order of the arguments, the library's first.
    """

    def __init__(self, **packages: str) -> None:
        self._packages = {"tidepool": "tidepool.storage", **packages}

    @cached_property
    def all(self) -> list[Migration]:
        """All migration files, in the order in which they are applied.

        Raises `MigrationError` if the files of a set are not numbered from 1 without a gap, or if a file lacks its line
        about older processes.
        """
        return [migration for name, package in self._packages.items() for migration in _read(name, package)]

    async def migrate(self, config: PoolConfig) -> list[Migration]:
        """Apply the missing migrations, in one transaction, and return them.

        Waits up to 300 s for locks of other sessions, and logs which sessions these are. Raises `Unavailable` after
        that time or if the server does not answer, and `MigrationError` as `compared` does. A second call applies
        nothing.
        """
        connection, backend = await config.connect("migrate"), _Backend()
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
        """Return how the migrations that the database has differ from the files. Changes nothing.

        Raises `MigrationError` if a file was changed after it was applied, or if the database has a migration that this
        process does not know and that forbids older processes. Sets of other applications are ignored.
        """
        rows = await connection.fetch(_SQL.of(connection.schema)["applied"])
        applied = {(row["set_name"], row["version"]): row for row in rows if row["set_name"] in self._packages}
        known = {(migration.set_name, migration.version): migration for migration in self.all}
        for key, migration in known.items():
            if key in applied and applied[key]["checksum"] != migration.checksum:
                raise MigrationError(f"migration {migration} was changed after it was applied")
        newer = list(_newer(row for key, row in applied.items() if key not in known))
        return SchemaState([migration for key, migration in known.items() if key not in applied], newer)

    def script(self, schema: str) -> list[LiteralString]:
        """Return the SQL statements that create the library's *schema*, if it is missing, and apply all migrations.

        They are to run in one transaction. What is applied already is left out by the statements themselves, so that
        they can run again, and need no answer from the database before.
        """
        create = _without_comment(_SQL.of(schema)["create"])
        return [create, *(migration.statement(schema) for migration in self.all)]

    @staticmethod
    async def require(side: SideConnection, *, tables: bool = False, writing: bool = False) -> None:
        """Check, over the connection *side*, that the database can serve this process; raise `Refused` if it cannot.

        With *tables*, all tables and columns that the migrations created must exist. With *writing*, the database must
        accept writes (no standby, not read-only) and have the encoding UTF8. It must always allow transactions, which a
        pooler may not. Raises `Unavailable` if it does not answer.
        """
        async with side.use() as connection:
            async with connection.transaction():  # which a pooler may not allow
                found = await connection.fetchrow(_REQUIRED.of(connection.schema)["read"])
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

    @staticmethod
    async def missing_parts(connection: Connection) -> list[str]:
        """Return the tables and columns that migrations created but that somebody has dropped since.

        A table is returned as `{schema}.{table}`, a column as `{schema}.{table}.{column}`.
        """
        rows = await connection.fetch(_SQL.of(connection.schema)["missing"])
        return list(dict.fromkeys(row["name"] for row in rows))

    async def _patiently(self, connection: DirectConnection, backend: _Backend) -> list[Migration]:
        """Apply and return the missing migrations; retries for up to `_PATIENCE_S` seconds while others hold locks."""
        passing = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
        policy = RetryPolicy(first_s=_PAUSE_S, max_s=_PAUSE_S, jitter=0.5, deadline_s=_PATIENCE_S)
        try:
            return await policy.retry(
                lambda: self._apply(connection, backend), lambda error: isinstance(error, passing)
            )
        except passing:
            raise Unavailable("a migration waits for a lock; the log says who holds it") from None

    async def _apply(self, connection: DirectConnection, backend: _Backend) -> list[Migration]:
        await _create_table(connection, backend)
        async with _bounded(connection, backend):
            if not (await self.compared(connection)).missing:
                return []
        async with _bounded(connection, backend):
            await connection.execute(_SQL.of(connection.schema)["lock"])
            missing = (await self.compared(connection)).missing  # somebody else may have been faster
            for migration in missing:
                await connection.execute(migration.statement(connection.schema), timeout=_PATIENCE_S)
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
    """Yield the names of applied migrations that this process does not know. *rows* are those of the query `applied`.

    Raises `MigrationError` if one of them forbids older processes.
    """
    for row in rows:
        name = _label(row["set_name"], row["version"], row["name"])
        if row["breaks_older"]:
            raise MigrationError(f"the database has migration {name}, which needs a newer version of this service")
        yield name


async def _create_table(connection: DirectConnection, backend: _Backend) -> None:
    """Create the schema and `tidepool_migrations` if they are missing.

    If several processes create them at once, all but one fail, with one of several SQLSTATEs (23505, 42P06, 42P07 and
    42710 were seen): which one depends on the system catalog in which they collide. Whatever the error, they exist.
    """
    sql = _SQL.of(connection.schema)
    try:
        async with _bounded(connection, backend):
            if not await connection.fetchval(sql["exists"]):
                await connection.execute(sql["create"])
    except asyncpg.PostgresError:
        if connection.is_closed() or not await connection.fetchval(sql["exists"]):
            raise


@contextlib.asynccontextmanager
async def _bounded(connection: DirectConnection, backend: _Backend) -> AsyncGenerator[None]:
    """Run the block in a transaction with a short lock timeout and without a statement timeout.

    Sets the process id of *backend* to that of the transaction.
    """
    async with connection.transaction(isolation="read_committed"):
        backend.pid = await connection.fetchval(_SQL.of(connection.schema)["bound"], str(_LOCK_TIMEOUT_MS))
        yield


@contextlib.asynccontextmanager
async def _watched(config: PoolConfig, backend: _Backend) -> AsyncGenerator[None]:
    """While the block runs, log which sessions block *backend*, by means of a second connection."""
    watching = asyncio.create_task(_watch(config, backend), name="watching a migration")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(config: PoolConfig, backend: _Backend) -> None:
    """Log each session that blocks *backend*, once: its user, application and start time, but never its SQL."""
    logged: set[tuple[int, str]] = set()
    await asyncio.sleep(_LOCK_TIMEOUT_MS / 1000 / 2)  # most migrations wait for nobody, and need no second connection
    watcher = await config.connect("migrate-watch")
    try:
        while True:
            for row in await watcher.fetch(_SQL.of(watcher.schema)["blockers"], backend.pid):
                if (key := (row["pid"], row["application_name"])) not in logged:
                    log.warning("migration.waits", **dict(row.items()))
                    logged.add(key)
            await asyncio.sleep(_LOCK_TIMEOUT_MS / 1000 / 4)
    finally:
        watcher.terminate()


def _label(set_name: str, version: int, name: str) -> str:
    return f"{set_name}/{version:04}_{name}"


def _without_comment(query: LiteralString) -> LiteralString:
    """Return *query* without the comment above its first line of SQL."""
    return cast("LiteralString", _COMMENT.sub("", query))


def _quoted(text: str) -> str:
    """Return *text* as a string literal of SQL."""
    return "'{}'".format(text.replace("'", "''"))
