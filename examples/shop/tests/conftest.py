"""Workers and connections for the tests, on the servers that TEST_DATABASE_URL and TEST_REDIS_URL name.

The tests drop the shop's tables in that database, and empty that Redis database.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from arq import ArqRedis, create_pool
from arq.connections import RedisSettings

from shop.db import SCHEMA

HOME = Path(__file__).parents[1]
WAIT_S = 30.0
SETTINGS = ("shop.tasks.WorkerSettings", "shop.worker.WorkerSettings")
"""The shop on stock arq, and moved."""


class Shop:
    """The shop's commands, on the servers of the tests."""

    def __init__(self, settings: str, database_url: str, redis_url: str) -> None:
        self.settings = settings
        self.database_url = database_url
        self.redis_settings = RedisSettings.from_dsn(redis_url)
        self._environment = {**os.environ, "DATABASE_URL": database_url, "REDIS_URL": redis_url}

    def empty(self) -> None:
        """Create the tables anew, and empty Redis."""

        async def run() -> None:
            connection: Any = await asyncpg.connect(self.database_url)
            await connection.execute("DROP TABLE IF EXISTS users, orders, charges")
            await connection.execute(SCHEMA)
            await connection.close()
            redis = await create_pool(self.redis_settings)
            await redis.flushdb()
            await redis.aclose()

        asyncio.run(run())

    def run(self, *words: str) -> str:
        """Run `python -m …` to its end; return what it prints."""
        command = [sys.executable, "-m", *words]
        return subprocess.run(
            command, cwd=HOME, env=self._environment, check=True, stdout=subprocess.PIPE, text=True, timeout=WAIT_S
        ).stdout

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker for the length of the block, and stop it."""
        command = [sys.executable, "-m", "arq", self.settings]
        with subprocess.Popen(command, cwd=HOME, env=self._environment) as worker:
            try:
                yield worker
                worker.terminate()
                assert 0 == worker.wait(WAIT_S)
            finally:
                worker.kill()


@pytest.fixture(scope="module", params=SETTINGS)
def shop(request: pytest.FixtureRequest) -> Shop:
    """Give the shop, once on stock arq and once moved."""
    return Shop(request.param, os.environ["TEST_DATABASE_URL"], os.environ["TEST_REDIS_URL"])


@pytest.fixture
def empty_shop(shop: Shop) -> Shop:
    """Give the shop without orders, jobs or workers."""
    shop.empty()
    return shop


@pytest.fixture(scope="module")
def worker(shop: Shop) -> Iterator[None]:
    """Run a worker for all tests of a file."""
    shop.empty()
    with shop.worker():
        yield


@pytest.fixture
async def redis(shop: Shop) -> AsyncIterator[ArqRedis]:
    """Give arq's client."""
    redis = await create_pool(shop.redis_settings)
    yield redis
    await redis.aclose()


@pytest.fixture
async def database(shop: Shop) -> AsyncIterator[Any]:
    """Give a connection to the shop's database."""
    connection: Any = await asyncpg.connect(shop.database_url)
    yield connection
    await connection.close()


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    """Wait until *condition* returns something true."""
    async with asyncio.timeout(WAIT_S):
        while not await condition():
            await asyncio.sleep(0.02)
