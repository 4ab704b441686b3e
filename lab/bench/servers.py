"""Provides servers to measure on: databases or servers of the laboratory's own, so that nobody's data are touched."""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, cast
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis

from tidepool import embedded
from tidepool.cli.terminal import CommandError
from tidepool.embedded import Urls
from tidepool.embedded.locks import wait_until
from tidepool.embedded.postgres import Postgres
from tidepool.fleet.capacity import Capacity
from tidepool.pool.config import PoolConfig
from tidepool.pool.connection import DirectConnection
from tidepool.pool.faults import translated
from tidepool.pool.side_connection import SideConnection
from tidepool.queue.connection import RedisClient
from tidepool.settings import Settings
from tidepool.urls import PostgresUrl, without_password
from worker import app

QUEUE = "arq:queue"
"""The queue of everything that is measured, whatever the setting QUEUE_NAME is."""
SCHEMA = "public"
"""The schema of the library's tables in everything that is measured, whatever the setting DB_SCHEMA is."""
_REDIS_DATABASE = 15
_NAMING_DATABASES = ("dbname", "database", "db")
"""Parameters of a URL that would override the database in its path."""
_USUAL_CONNECTIONS, _SPARE_CONNECTIONS = 100, 20
_RESTART_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """A PostgreSQL and a Redis server to measure on, with the service's tables.

    *postgres_pid* is the process id of PostgreSQL if the laboratory started it, else None.
    """

    urls: Urls
    redis: RedisClient
    postgres_pid: int | None

    async def reset(self) -> None:
        """Empty the queue and all tables except `pool_snapshots`, and make a checkpoint in PostgreSQL.

        So no checkpoint falls into the measurement that follows.
        """
        await self.redis.flushdb()
        async with session(self.urls.database) as connection:
            await connection.execute("TRUNCATE public.users, public.products, public.orders, public.job_results")
            await connection.execute("CHECKPOINT")


def measured_environment(database: str, redis: str, **variables: str) -> dict[str, str]:
    """Return the environment variables of a worker that is to run on these servers, with *variables* in addition.

    QUEUE_NAME and DB_SCHEMA are set to `QUEUE` and `SCHEMA`, where the measured jobs and tables are. METRICS_PORT is
    emptied, because several workers cannot share one port.
    """
    fixed = {"QUEUE_NAME": QUEUE, "DB_SCHEMA": SCHEMA, "METRICS_PORT": ""}
    return Settings.child_environment(DATABASE_URL=database, REDIS_URL=redis, **fixed, **variables)


async def connect(url: str) -> DirectConnection:
    """Open a PostgreSQL connection outside any pool. Raises asyncpg's errors."""
    return cast("DirectConnection", await asyncpg.connect(**PostgresUrl.parse(url).driver_arguments()))


async def redis_info(redis: Redis, section: str = "default") -> dict[str, Any]:
    """Return a section of Redis's INFO. The type of each value depends on its name."""
    return await redis.info(section)


@asynccontextmanager
async def session(url: str) -> AsyncGenerator[DirectConnection]:
    """Open a PostgreSQL connection outside any pool, and close it at the end of the block.

    Raises the errors of `tidepool.pool`, and `CommandError` if PostgreSQL refuses it.
    """
    try:
        async with translated():
            connection = await connect(url)
            try:
                yield connection
            finally:
                await connection.close()
    except asyncpg.PostgresError as error:
        raise CommandError(f"PostgreSQL at {without_password(url)}: {error}") from None


@asynccontextmanager
async def own_site(settings: Settings, *, connections: int) -> AsyncGenerator[Site]:
    """Provide servers with room for *connections* connections of the workers, while the block runs.

    If the settings name servers, they are new databases there, as `own_databases` makes them. Else they are new servers
    in the data directory, deleted at the end. Raises `CommandError` if the servers cannot have so many connections.
    """
    async with AsyncExitStack() as stack:
        if settings.embedded:
            home = stack.enter_context(_own_directory(settings.data_dir))
            urls = stack.enter_context(embedded.join(home)).urls
            postgres_pid = await _admit(home, urls, connections)
            redis = RedisClient.open(urls.redis, queue_name=QUEUE)
            stack.push_async_callback(redis.aclose, close_connection_pool=True)
        else:
            urls, redis = await stack.enter_async_context(own_databases(settings.urls))
            postgres_pid = None
            await _require(urls, settings, connections)
        await app.migrations.migrate(PoolConfig(url=urls.database, application_name="tidepool-lab", schema=SCHEMA))
        yield Site(urls, redis, postgres_pid)


@asynccontextmanager
async def own_databases(urls: Urls) -> AsyncGenerator[tuple[Urls, RedisClient]]:
    """Create a PostgreSQL database with a new name, and use an empty Redis database, for an `async with` block.

    At the end the PostgreSQL database is dropped and the Redis database emptied. Raises `CommandError` if Redis
    database 15 is not empty.
    """
    name = f"tidepool_bench_{secrets.token_hex(6)}"
    own = with_databases(urls, name, _REDIS_DATABASE)
    async with AsyncExitStack() as stack:
        redis = RedisClient.open(own.redis, queue_name=QUEUE)
        stack.push_async_callback(redis.aclose, close_connection_pool=True)
        if await redis.dbsize():
            raise CommandError(
                f"Redis database {_REDIS_DATABASE} is not empty; the benchmark empties it, so it will not use it"
            )
        await _administer(urls, f"CREATE DATABASE {name}")
        stack.push_async_callback(_administer, urls, f"DROP DATABASE {name} WITH (FORCE)")
        stack.push_async_callback(redis.flushdb)
        yield own, redis


def with_databases(urls: Urls, database: str, redis: int) -> Urls:
    """Return *urls* with the PostgreSQL database named *database* and the Redis database number *redis*."""
    return Urls(_with_database(urls.database, database), _with_database(urls.redis, str(redis)))


def _with_database(url: str, name: str) -> str:
    """Return the valid *url* with the database *name*, without parameters that would override it."""
    scheme, authority, path, query, _ = urlsplit(url)
    kept = [pair for pair in query.split("&") if pair and pair.partition("=")[0] not in _NAMING_DATABASES]
    if scheme == "unix":
        kept.append(f"db={name}")
    else:
        path = f"/{name}"
    return f"{scheme}://{authority}{path}" + (f"?{'&'.join(kept)}" if kept else "")


async def _administer(urls: Urls, statement: str) -> None:
    """Run a statement that takes no parameters. It must contain no input of the user."""
    async with session(urls.database) as admin:
        await admin.execute(cast("LiteralString", statement))


@contextmanager
def _own_directory(data_dir: Path) -> Generator[Path]:
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lab-", dir=data_dir.resolve()) as directory:
        yield Path(directory)


async def _admit(home: Path, urls: Urls, connections: int) -> int:
    """Raise the connection limit of the laboratory's own PostgreSQL if it is too low for *connections*.

    PostgreSQL is restarted for that. Returns its process id.
    """
    postgres = Postgres(home)
    if connections + _SPARE_CONNECTIONS > _USUAL_CONNECTIONS:
        await _administer(urls, f"ALTER SYSTEM SET max_connections = {connections + _SPARE_CONNECTIONS:d}")
        await asyncio.to_thread(_restart, postgres)
    return int((postgres.data / "postmaster.pid").read_text("utf-8").split()[0])


def _restart(postgres: Postgres) -> None:
    postgres.ask_to_stop()
    if wait_until(postgres.is_down, _RESTART_WAIT_S):
        postgres.start()
        if wait_until(postgres.is_ready, _RESTART_WAIT_S):
            return
    raise CommandError("PostgreSQL did not start again")


async def _require(urls: Urls, settings: Settings, connections: int) -> None:
    """Raise `CommandError` if the server has fewer than *connections* connections free."""
    config = PoolConfig(url=urls.database, application_name="tidepool-lab", schema=SCHEMA)
    side = SideConnection(config, "capacity")
    try:
        room = (await Capacity.read(side)).room(settings.connection_margin)
    finally:
        await side.close()
    if room < connections:
        raise CommandError(
            f"PostgreSQL has {max(0, room)} connections to give, and {connections} are wanted: ask for less, or raise "
            "its max_connections"
        )
