"""What the tests of adopted applications share: arq's own client, which pickles, and workers of both classes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis, RedisSettings
from arq.worker import func
from redis.asyncio import ConnectionPool

import tidepool
import tidepool.engine.worker
from tidepool.pool.config import PoolConfig


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


async def send(_ctx: dict[Any, Any], address: str) -> str:
    """Send a mail, unless the address is bad; to a slow one it takes until the worker is stopped."""
    if address == "bad":
        raise ValueError(address)
    if address == "slow":
        await asyncio.Event().wait()
    return "sent"


@pytest.fixture
def settings(database: PoolConfig, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give adopted arq settings with a database."""
    monkeypatch.setenv("TIDEPOOL_DATABASE_URL", database.url)
    monkeypatch.setenv("TIDEPOOL_DB_SCHEMA", "public")
    monkeypatch.setenv("TIDEPOOL_STATS_INTERVAL", "0.2")
    return tidepool.adopt(
        {
            "functions": [func(send, name="send")],
            "redis_settings": RedisSettings.from_dsn(redis_url),
            "poll_delay": 0.01,
            "handle_signals": False,
            "allow_abort_jobs": True,
        }
    )


@pytest.fixture
async def work(settings: dict[str, Any]) -> AsyncIterator[Callable[[], None]]:
    """Give a function that starts a worker, which is stopped at the end."""
    tasks: list[tuple[arq.worker.Worker, asyncio.Task[None]]] = []

    def start() -> None:
        worker = arq.worker.create_worker(settings)  # type: ignore[arg-type]
        tasks.append((worker, asyncio.create_task(worker.async_run())))

    yield start
    for worker, task in tasks:
        task.cancel()
        await asyncio.wait([task])
        await worker.close()
