"""What the tests share: servers for the session, a database and a Redis of its own for each test that asks.

Pure tests ask for nothing here and start nothing. The servers are the embedded ones, in a directory of
this session's own, so that several sessions may run at a time; they are gone when it ends. Each process of
pytest-xdist is a session in this sense.
"""

import asyncio
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import arq.worker
import asyncpg
import hypothesis
import pytest
import structlog
from arq.connections import ArqRedis
from commands import Service
from own_servers import OwnServers
from redis import Redis

from tidepool import embedded
from tidepool.client import JobClient
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.queue.connection import RedisClient
from worker import app

QUEUE = "arq:queue"
_ARQS_INIT = arq.worker.Worker.__init__
_TEMPLATE = "tidepool_template"
_ENOUGH_BYTES = 2_000_000_000
_REDIS_DATABASES = itertools.cycle(range(1, 14))  # 14 is the page's, 15 is what measuring commands need to be empty
_DATABASE_NUMBERS = itertools.count(1)
_MAX_PROCESSES = 4  # each has a PostgreSQL and a Redis, some 150 MB

hypothesis.settings.register_profile("tests", deadline=None, database=None)  # no clock, and no files in the checkout
hypothesis.settings.load_profile("tests")


def pytest_configure() -> None:
    """Handle SIGINT and SIGHUP as a terminal's commands do.

    A run in a shell's background or under `nohup` ignores them, and the commands that the tests start would inherit it.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run the whole suite in one process per core, at most four; run a part of it, or the slow tests, in this process.

    Each process has servers of its own. Slow tests measure, and a few tests are over before a second process is ready.
    """
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and config.option.markexpr == "not slow"
    return min(os.cpu_count() or 1, _MAX_PROCESSES) if is_whole else 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with what its fixtures start: the session's servers, or commands as processes of their own."""
    for item in items:
        for marker, fixture in (("servers", "servers"), ("commands", "service")):
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)


@dataclass(frozen=True)
class Servers:
    """The session's PostgreSQL and Redis."""

    urls: embedded.Urls

    def database_url(self, name: str) -> str:
        """Return the URL of the database called *name*."""
        return urlsplit(self.urls.database)._replace(path=f"/{name}").geturl()

    def redis_url(self, number: int) -> str:
        """Return the URL of Redis's database *number*."""
        return self.urls.redis.replace("db=0", f"db={number}")

    def administer(self, *statements: str) -> None:
        """Run statements that belong to no test's database, before any event loop runs."""

        async def run() -> None:
            connection = await asyncpg.connect(self.database_url("postgres"))
            for statement in statements:
                await connection.execute(statement)
            await connection.close()

        asyncio.run(run())


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """Keep what is logged instead of printing it; a test that asks for it reads the lines as dictionaries."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture(autouse=True)
def stock_arq() -> Iterator[None]:
    """Undo what `tidepool.adopt` has changed in arq during a test, or arq's workers of later tests would be ours.

    A class whose `__new__` has been set cannot be created with arguments once it is deleted; so it gets a plain one.
    """
    yield
    stock: Any = arq.worker.Worker
    if stock.__init__ is not _ARQS_INIT:
        stock.__init__, stock.__new__ = _ARQS_INIT, lambda asked, *_args, **_options: object.__new__(asked)
        del stock.__signature__


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Run PostgreSQL and Redis for the session, with a migrated template to copy databases from."""
    home = Path(tempfile.mkdtemp(prefix="tp-", dir=_quick_directory()))  # short: a socket's path has 107 bytes
    try:
        with embedded.join(home) as membership:
            servers = Servers(membership.urls)
            servers.administer(
                "ALTER SYSTEM SET fsync = off",
                "SELECT pg_reload_conf()",
                f"CREATE DATABASE {_TEMPLATE}",
            )
            asyncio.run(app.migrations.migrate(_config(servers.database_url(_TEMPLATE))))
            yield servers
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
async def empty_database(servers: Servers) -> AsyncIterator[PoolConfig]:
    """Give a database of its own without a schema."""
    async for config in _database(servers, "template1"):
        yield config


@pytest.fixture
async def database(request: pytest.FixtureRequest, servers: Servers) -> AsyncIterator[PoolConfig]:
    """Give a migrated database of its own, or the one of all tests of the file if they use `shared_database`."""
    if "shared_database" in request.fixturenames:
        yield request.getfixturevalue("shared_database")
        return
    async for config in _database(servers, _TEMPLATE):
        yield config


@pytest.fixture(scope="module")
def shared_database(servers: Servers) -> Iterator[PoolConfig]:
    """Give a migrated database for all tests of a file; a test that needs it empty has to empty it."""
    name = f"t{next(_DATABASE_NUMBERS)}"
    servers.administer(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY FILE_COPY")
    yield _config(servers.database_url(name))
    servers.administer(f"DROP DATABASE {name} WITH (FORCE)")


def _config(url: str) -> PoolConfig:
    """Return how tests connect to a database of the service, which has all its tables in one schema."""
    return PoolConfig(url=url, application_name="tests", schema="public")


def _quick_directory() -> Path | None:
    """Return memory where there is enough: a database is 300 files, 15 ms to copy there, up to 400 ms on a disk."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > _ENOUGH_BYTES else None


async def _database(servers: Servers, template: str) -> AsyncIterator[PoolConfig]:
    """Copy *template*, and drop the copy: FILE_COPY makes checkpoints, which cost nothing without fsync."""
    name = f"t{next(_DATABASE_NUMBERS)}"
    admin = await asyncpg.connect(servers.database_url("postgres"))
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        yield _config(servers.database_url(name))
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@pytest.fixture
async def pool(database: PoolConfig) -> AsyncIterator[Pool]:
    """Give an open pool of four on the test's database."""
    pool = await Pool.open(database)
    yield pool
    await pool.close()


@pytest.fixture
async def side(database: PoolConfig) -> AsyncIterator[SideConnection]:
    """Give a side connection to the test's database."""
    side = SideConnection(database, "stats")
    yield side
    await side.close()


@pytest.fixture
async def connection(database: PoolConfig) -> AsyncIterator[Any]:
    """Give a connection of its own to the test's database, beside any pool."""
    connection = await database.connect("test")
    yield connection
    await connection.close()


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """Give an empty Redis database of its own."""
    url = servers.redis_url(next(_REDIS_DATABASES))
    with Redis.from_url(url) as redis:
        cast("Any", redis).flushdb()
    return url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[ArqRedis]:
    """Give arq's client of the test's Redis database."""
    redis = RedisClient.open(redis_url, queue_name=QUEUE)
    yield redis
    await redis.aclose(close_connection_pool=True)


@pytest.fixture
def client(redis: ArqRedis) -> JobClient:
    """Give a job client of the test's Redis database."""
    return JobClient(redis)


@pytest.fixture
def service(database: PoolConfig, redis_url: str, tmp_path: Path) -> Iterator[Service]:
    """Give the commands, on external servers as production has them; workers left over are killed."""
    # Without bytecode each of some hundred processes would compile every module that it imports.
    left_out = ("DATA_DIR", "LOG_LEVEL", "STATS_INTERVAL", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {
        "DATABASE_URL": database.url,
        "REDIS_URL": redis_url,
        "DATA_DIR": str(tmp_path / "data"),
        "STATS_INTERVAL": "0.5",
        "COLUMNS": "200",
    }
    service = Service(environment)
    yield service
    for worker in service.started:
        if worker.poll() is None:
            worker.kill()
        if worker.stderr and worker.stderr.closed:  # the test has read it
            worker.wait()
        else:
            worker.communicate()


@pytest.fixture
async def own_servers(service: Service, tmp_path: Path) -> AsyncIterator[OwnServers]:
    """Give servers of the test's own; they are gone when it ends."""
    home = tmp_path / "own"
    with embedded.join(home) as membership:
        urls = membership.urls
        service.environment |= {"DATABASE_URL": urls.database, "REDIS_URL": urls.redis}
        redis = RedisClient.open(urls.redis, queue_name="arq:queue")
        try:
            yield OwnServers(home, urls, service, redis)
        finally:
            await redis.aclose(close_connection_pool=True)
            for worker in service.started:
                worker.kill()  # before its servers go


@pytest.fixture
def rows(connection: Any) -> Callable[[str], Awaitable[list[dict[str, Any]]]]:
    """Give a function that runs a query and returns its rows as dictionaries."""

    async def fetch(query: str) -> list[dict[str, Any]]:
        return [dict(row) for row in await connection.fetch(query)]

    return fetch
