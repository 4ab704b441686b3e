"""What the tests of adopted applications share: arq's own client, which pickles, and workers of both classes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool

import tidepool.engine.worker


@pytest.fixture
async def connect(redis_url: str) -> AsyncIterator[Callable[..., ArqRedis]]:
    """Give a function that opens arq's own clients of the test's Redis database, with arq's options."""
    opened: list[ArqRedis] = []

    def open_client(**options: Any) -> ArqRedis:
        client = ArqRedis(ConnectionPool.from_url(redis_url), **options)
        client.close = client.aclose  # type: ignore[method-assign]  # arq calls it by its old name: a warning
        opened.append(client)
        return client

    yield open_client
    for client in opened:
        await client.aclose(close_connection_pool=True)


@pytest.fixture
def redis(connect: Callable[..., ArqRedis]) -> ArqRedis:
    """Give a client of the test's Redis database that pickles, as arq's do by default."""
    return connect()


@pytest.fixture(params=["arq", "ours"])
def kind(request: pytest.FixtureRequest) -> type[arq.worker.Worker]:
    """Give a class of workers, arq's and ours in turn."""
    return arq.worker.Worker if request.param == "arq" else tidepool.engine.worker.Worker


@pytest.fixture
async def make(
    kind: type[arq.worker.Worker], connect: Callable[..., ArqRedis]
) -> AsyncIterator[Callable[..., arq.worker.Worker]]:
    """Give a function that makes workers of *kind*, or of a subclass, in burst mode; all are closed at the end."""
    made: list[arq.worker.Worker] = []

    def make_worker(*functions: Any, of: type[arq.worker.Worker] = kind, **options: Any) -> arq.worker.Worker:
        given = {"redis_pool": connect(), "burst": True, "poll_delay": 0, "handle_signals": False, **options}
        made.append(of(functions, **given))
        return made[-1]

    yield make_worker
    for one in made:
        if not isinstance(one, tidepool.engine.worker.Worker):  # it would meet the cancellation of its own jobs
            for task in one.tasks.values():
                task.cancel()
            await asyncio.gather(*one.tasks.values(), return_exceptions=True)
            one.tasks.clear()
        await one.close()
