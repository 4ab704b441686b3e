"""Fixtures for pytest: servers for the session, and a migrated database and an empty queue for each test."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tidepool import embedded
from tidepool.app import App
from tidepool.embedded import Urls
from tidepool.jobs.transaction import Transaction
from tidepool.pool.config import PoolConfig
from tidepool.queue.connection import RedisClient

try:
    from pytest_asyncio import fixture as _async_fixture
except ModuleNotFoundError:
    _async_fixture = pytest.fixture  # what anyio's plugin expects

T = TypeVar("T")


@pytest.fixture(scope="session")
def tidepool_app() -> App:
    """Give the application: each test suite defines this fixture itself."""
    raise pytest.UsageError("define a fixture tidepool_app, with scope='session', which returns your tidepool.App")


@pytest.fixture(scope="session")
def tidepool_servers() -> Iterator[Urls]:
    """Give the URLs of a PostgreSQL and a Redis that run for the session; their data are gone after it."""
    home = Path(tempfile.mkdtemp(prefix="tp-"))  # short: the path of a socket has max 107 bytes
    try:
        with embedded.join(home) as membership:
            _administer(membership.urls, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
            yield membership.urls
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def _tidepool_template(tidepool_app: App, tidepool_servers: Urls) -> Iterator[str]:
    """Give the name of a migrated database, which is copied for each test."""
    name = f"template_{uuid4().hex}"
    _administer(tidepool_servers, f"CREATE DATABASE {name}")
    with pytest.MonkeyPatch.context() as environment:
        _use(tidepool_app, _urls(tidepool_servers, name), environment)
        config = tidepool_app.settings.load().pool_config(_urls(tidepool_servers, name).database, "tests")
    _complete(tidepool_app.migrations.migrate(config))
    yield name
    _administer(tidepool_servers, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def tidepool_urls(
    tidepool_app: App, tidepool_servers: Urls, _tidepool_template: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Urls]:
    """Give the URLs of a migrated database and an empty Redis for the test, which the environment names during it."""
    name = f"test_{uuid4().hex}"
    _administer(tidepool_servers, f"CREATE DATABASE {name} TEMPLATE {_tidepool_template} STRATEGY FILE_COPY")
    _complete(_empty(tidepool_servers.redis))
    urls = _urls(tidepool_servers, name)
    _use(tidepool_app, urls, monkeypatch)
    yield urls
    _administer(tidepool_servers, f"DROP DATABASE {name} WITH (FORCE)")


@_async_fixture
async def tidepool_transaction(tidepool_app: App, tidepool_urls: Urls) -> AsyncIterator[Transaction]:
    """Give an open transaction in the test's database, which is rolled back at the end of the test."""
    config = tidepool_app.settings.load().pool_config(tidepool_urls.database, "tests")
    connection: Any = await config.connect("test")
    block = connection.transaction()
    await block.start()
    try:
        async with Transaction(connection) as transaction:
            yield transaction
        await block.rollback()
    finally:
        await connection.close()


def _urls(servers: Urls, name: str) -> Urls:
    """Return the URLs of the database called *name*, and of Redis."""
    return Urls(urlsplit(servers.database)._replace(path=f"/{name}").geturl(), servers.redis)


def _use(app: App, urls: Urls, environment: pytest.MonkeyPatch) -> None:
    """Let the settings of *app* name these servers. Pool snapshots are not needed in a test."""
    values = {"database_url": urls.database, "redis_url": urls.redis, "enable_monitoring": "false"}
    for field, value in values.items():
        environment.setenv(app.settings.variable(field), value)


def _administer(servers: Urls, *statements: str) -> None:
    """Run *statements* outside of any test's database."""

    async def run() -> None:
        connection = await PoolConfig(url=_urls(servers, "postgres").database, application_name="tests").connect(
            "admin"
        )
        for statement in statements:
            await connection.execute(cast("Any", statement))
        await connection.close()

    _complete(run())


async def _empty(redis_url: str) -> None:
    """Delete all keys of a Redis database."""
    redis = RedisClient.open(redis_url, queue_name="arq:queue")
    await redis.flushdb()
    await redis.aclose(close_connection_pool=True)


def _complete(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* to its end, in a thread of its own: an event loop may be running in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
