"""The real commands, on a database and a Redis of the test's own."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Service
from own_servers import OwnServers

from tidepool import embedded
from tidepool.pool.pool import PoolConfig
from tidepool.queue.connection import open_redis


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
        redis = open_redis(urls.redis, queue_name="arq:queue")
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
