"""The records of an adopted application's worker: they are begun once, and end in time."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import arq.worker
import asyncpg
import pytest
from arq.connections import ArqRedis, RedisSettings
from arq.worker import func
from commands import until
from sqlalchemy.ext.asyncio import create_async_engine

import tidepool
from tidepool.engine.worker import StartError, Worker
from tidepool.pool.config import PoolConfig
from tidepool.urls import PostgresUrl


async def double(ctx: dict[Any, Any], number: int) -> int:
    """Return twice the number."""
    return 2 * number


@pytest.fixture
async def silent_url() -> AsyncIterator[str]:
    """Give the URL of a PostgreSQL that accepts connections, and never answers."""
    writers: list[asyncio.StreamWriter] = []

    async def keep(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(keep, "127.0.0.1", 0)
    yield f"postgresql://u:p@127.0.0.1:{server.sockets[0].getsockname()[1]}/db"
    server.close()
    for writer in writers:
        writer.close()


@pytest.fixture
def worker(redis_url: str, silent_url: str, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Give a worker of adopted settings with a database for records, and with a pool to watch."""
    monkeypatch.delenv("TIDEPOOL_DATABASE_URL", raising=False)

    class Settings:
        functions = (func(double, name="double"),)
        redis_settings = RedisSettings.from_dsn(redis_url)
        burst = True
        handle_signals = False
        poll_delay = 0

    engine = create_async_engine("postgresql+asyncpg://")
    worker = arq.worker.create_worker(
        tidepool.adopt(Settings, database_url=silent_url, pool=lambda _ctx: engine)  # type: ignore[arg-type]
    )
    assert isinstance(worker, Worker)
    return worker


@pytest.mark.parametrize("is_used", [False, True], ids=["without a database", "with one"])
async def test_a_wrong_variable_matters_only_to_a_worker_that_uses_tidepools_settings(
    redis: ArqRedis, redis_url: str, silent_url: str, monkeypatch: pytest.MonkeyPatch, *, is_used: bool
) -> None:
    """Without a database for records jobs run; with one, a line names each variable before the first job is run."""
    monkeypatch.setenv("TIDEPOOL_POOL_MAX_SIZE", "many")
    monkeypatch.setenv("TIDEPOOL_DATABASE_URL", silent_url if is_used else " ")
    settings = {
        "functions": [func(double, name="double")],
        "redis_settings": RedisSettings.from_dsn(redis_url),
        "burst": True,
        "handle_signals": False,
        "poll_delay": 0,
    }
    job = await redis.enqueue_job("double", 21)
    assert job is not None
    worker = arq.worker.create_worker(tidepool.adopt(settings))  # type: ignore[arg-type]
    if is_used:
        with pytest.raises(StartError, match=r"^TIDEPOOL_POOL_MAX_SIZE: input should be a valid integer.*$"):
            await worker.run_check()
        assert "queued" == await job.status()
    else:
        await worker.run_check()
        assert 42 == await job.result(timeout=5)
    await worker.close()


async def test_what_is_no_pool_ends_the_start(redis_url: str, silent_url: str) -> None:
    """With what it is, and what it could be."""
    settings = {"functions": [func(double)], "redis_settings": RedisSettings.from_dsn(redis_url), "burst": True}
    adopted = tidepool.adopt(settings, database_url=silent_url, pool=lambda _ctx: silent_url)
    worker = arq.worker.create_worker(adopted, handle_signals=False)  # type: ignore[arg-type]
    with pytest.raises(StartError, match=r"pool returned str, which is neither an asyncpg\.Pool nor an SQLAlchemy"):
        await worker.run_check()
    await worker.close()


def names() -> list[str]:
    """Return the names of the tasks that write records."""
    known = {"history", "pruner", "stats job"}
    return sorted(task.get_name() for task in asyncio.all_tasks() if task.get_name() in known)


async def test_a_worker_that_runs_again_has_no_second_writer(worker: Worker, redis: ArqRedis) -> None:
    """Three runs have one history, and the next one after the end has one of its own; none stays."""
    for number in range(3):
        await redis.enqueue_job("double", number)
        await worker.run_check()
        assert ["history", "pruner", "stats job"] == names()
    await worker.close()
    assert [] == names()
    await redis.enqueue_job("double", 4)
    await worker.run_check()
    assert ["history", "pruner", "stats job"] == names()
    await worker.close()
    assert [] == names()


async def test_a_silent_database_delays_the_end_by_three_seconds_at_most(worker: Worker, redis: ArqRedis) -> None:
    """All records are lost then; a container would be killed after ten seconds."""
    await redis.enqueue_job("double", 1)
    await worker.run_check()
    await asyncio.sleep(0.3)
    begun_s = time.monotonic()
    await worker.close()
    assert time.monotonic() - begun_s < 4.5


async def test_the_pools_of_a_fleet_are_counted_in_the_budget(
    redis: ArqRedis, redis_url: str, database: PoolConfig, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its max size, and two connections for records. Open ones are the workers', not those of others.

    A worker without an outcome has opened one of the two.
    """
    monkeypatch.setenv("TIDEPOOL_DB_SCHEMA", "public")
    monkeypatch.setenv("TIDEPOOL_STATS_INTERVAL", "0.1")
    engine = create_async_engine(
        "postgresql+asyncpg://", connect_args=PostgresUrl.parse(database.url).driver_arguments(), max_overflow=2
    )
    pool = asyncpg.create_pool(database.url, min_size=3, max_size=8)
    workers = [
        arq.worker.create_worker(
            tidepool.adopt(
                {"functions": [func(double)], "redis_settings": RedisSettings.from_dsn(redis_url)},  # type: ignore[arg-type]
                database_url=database.url,
                pool=lambda _ctx, pool=pool: pool,
            ),
            handle_signals=False,
        )
        for pool in (engine, pool)
    ]
    async with pool, engine.connect():
        running = [asyncio.create_task(worker.async_run()) for worker in workers]

        async def counted() -> Any:
            row = await connection.fetchrow("SELECT * FROM db_snapshots WHERE workers = 2 ORDER BY tick DESC LIMIT 1")
            return row if row and row["backends_of_workers"] == (1 + 1) + (3 + 1) else None

        row = await until(counted)
        others = row["backends"] - row["backends_of_workers"]
        assert (5 + 2 + 2) + (8 + 2) == row["granted"]
        assert row["max_connections"] - row["reserved_connections"] - others - 5 == row["usable"]
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        for worker in workers:
            await worker.close()
    await engine.dispose()
    (fleet,) = [key async for key in redis.scan_iter("tidepool:budget:*") if await redis.type(key) == b"hash"]
    assert [b"0:0"] == list({*await redis.hvals(fleet)})
