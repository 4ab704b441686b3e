"""Readiness: which facts make a process ready, and the words when they do not hold."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq.connections import ArqRedis

from tidepool.health.readiness import Condition, Readiness
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.queue.connection import RedisClient
from worker import app


async def answers() -> None:
    """Answer as a Redis that works."""


@pytest.fixture
async def small(database: PoolConfig) -> AsyncIterator[Pool]:
    """Give a pool of one connection."""
    pool = await Pool.open(database, 1)
    yield pool
    await pool.close()


async def failing(readiness: Readiness) -> dict[str, str]:
    """Return the checks that do not hold, in their words."""
    report = await readiness.look()
    assert report.ready == all(check.ok for check in report.checks.values())
    return {name: check.reason for name, check in report.checks.items() if not check.ok}


async def test_all_is_well(pool: Pool, redis: ArqRedis) -> None:
    """Both servers answer, and nothing is missing."""
    readiness = Readiness(redis.ping, app.migrations, own={"engine": lambda: Condition(ok=True, reason="goes round")})
    readiness.watch(pool)
    report = await readiness.look()
    assert (True, report) == (report.ready, readiness.last)
    assert {"postgresql", "migrations", "pool", "redis", "engine"} == set(report.checks)


async def test_before_the_pool_is_open_the_process_is_starting() -> None:
    """Before the first check it is not ready either."""
    readiness = Readiness(answers, app.migrations)
    assert not readiness.last.ready
    assert {"pool": "the process is starting"} == await failing(readiness)


async def test_a_redis_that_is_away_is_named(pool: Pool) -> None:
    """In one line, without the password."""
    away = RedisClient.open("redis://user:secret@127.0.0.1:1", queue_name="arq:queue")
    readiness = Readiness(away.ping, app.migrations)
    readiness.watch(pool)
    words = (await failing(readiness))["redis"]
    await away.aclose(close_connection_pool=True)
    assert words.startswith("ConnectionError: ")
    assert ("\n" not in words, "secret" not in words) == (True, True)


async def test_a_postgresql_that_is_away_is_named(database: PoolConfig) -> None:
    """The pool, which is not at fault, is reported separately."""
    pool = Pool(PoolConfig(url="postgresql://user:secret@127.0.0.1:1/x", application_name="t"))
    readiness = Readiness(answers, app.migrations)
    readiness.watch(pool, side=SideConnection(pool.config, "stats"))
    words = await failing(readiness)
    assert {"postgresql"} == set(words)
    assert "secret" not in words["postgresql"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "DELETE FROM tidepool_migrations WHERE version >= 3 OR set_name = 'service'",
            "not applied: tidepool/0003_housekeeping, tidepool/0004_outbox, service/0001_tables",
        ),
        (
            "UPDATE tidepool_migrations SET checksum = '' WHERE set_name = 'service'",
            "migration service/0001_tables was changed after it was applied",
        ),
    ],
)
async def test_migrations_have_to_be_those_of_this_version(
    pool: Pool, connection: Any, change: str, words: str
) -> None:
    """A missing one, or another one."""
    await connection.execute(change)
    readiness = Readiness(answers, app.migrations)
    readiness.watch(pool)
    assert {"migrations": words} == await failing(readiness)


async def test_a_full_pool_at_work_has_headroom(small: Pool, side: SideConnection) -> None:
    """Somebody waits, but connections come and go: that is what a busy worker looks like. Stuck is another thing."""
    readiness = Readiness(answers, app.migrations)
    readiness.watch(small, side=side)

    async def use() -> None:
        async with small.acquire():
            pass

    async with small.acquire():
        waiting = asyncio.create_task(use())
        await asyncio.sleep(0)
        assert {} == await failing(readiness)
        readiness._report._made = None  # as if half a second had passed
        assert {"pool": "none comes free: 1 of 1 in use, 1 waiting"} == await failing(readiness)
    await waiting
    readiness._report._made = None
    assert {} == await failing(readiness)


async def test_without_a_side_connection_a_look_waits_for_its_turn(
    small: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a request would: where none comes, there is no headroom."""
    monkeypatch.setattr("tidepool.health.readiness._PATIENCE_S", 0.05)
    readiness = Readiness(answers, app.migrations)
    readiness.watch(small)
    async with small.acquire():
        words = await failing(readiness)
    assert ({"postgresql", "pool"}, "none comes free: 1 of 1 in use, 0 waiting") == (set(words), words["pool"])


async def test_a_connection_that_is_slow_to_come_back_holds_no_answer_up(pool: Pool, monkeypatch: Any) -> None:
    """A frozen server: the driver waits for it when the query is cancelled, for as long as a command may take."""
    monkeypatch.setattr("tidepool.health.readiness._PATIENCE_S", 0.05)
    back, asked = asyncio.Event(), asyncio.Event()

    async def hang(*_: object) -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            await back.wait()

    async def ping() -> None:
        """Answer."""

    monkeypatch.setattr("tidepool.storage.migrator.Migrations.compared", hang)
    readiness = Readiness(ping, app.migrations)
    readiness.watch(pool)
    async with asyncio.timeout(2):
        report = await readiness.look()
    back.set()
    assert asked.is_set()
    assert not report.checks["postgresql"].ok
