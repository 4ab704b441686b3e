"""The workers' scheduler: each tick is one job, whatever restarts and however many workers there are."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from engines import stop

from tidepool import App, Applied, Transaction, Urls, lifecycle
from tidepool.client import JobClient, open_client
from tidepool.engine.worker import Worker
from tidepool.pool.side_connection import SideConnection
from tidepool.scheduler import Scheduler
from tidepool.testing import drain, queued

pytest_plugins = ["tidepool.testing"]

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def tidepool_servers(servers: Any) -> Urls:
    """Use the session's servers."""
    return servers.urls


@pytest.fixture(scope="session")
def tidepool_app() -> App:
    """Give an application for the migrations."""
    return App()


@pytest.fixture
def app(tidepool_urls: Urls) -> App:
    """Give an application with the job `tick`, whose result is the job's id."""
    app = App()

    @app.job
    async def tick(tx: Transaction) -> str:
        return tx.job_id

    return app


@pytest.fixture
async def client(app: App) -> AsyncIterator[JobClient]:
    """Give a client of the test's queue."""
    async with open_client(app.settings.load()) as client:
        yield client


@pytest.fixture
async def side(app: App) -> AsyncIterator[SideConnection]:
    """Give a connection to the test's database."""
    settings = app.settings.load()
    side = SideConnection(settings.pool_config(settings.urls.database, "tests"), "stats")
    yield side
    await side.close()


def every_minute(app: App, expression: str = "* * * * *", *, catch_up: bool = False) -> App:
    """Let the workers of *app* enqueue its job `tick`, by default each minute."""
    job_type = app.job_types.get("tick")
    assert job_type is not None
    app.cron(expression, catch_up=catch_up)(job_type)
    return app


async def minutes(app: App) -> list[str]:
    """Return the times of the ticks that are queued, as hours and minutes."""
    return sorted(job.id.removeprefix("cron:tick:2026-12-01T")[:5] for job in await queued(app))


async def test_a_tick_is_one_job_of_the_fleet(app: App, client: JobClient, side: SideConnection) -> None:
    """Each worker enqueues it, five seconds before, and says when the next one is."""
    every_minute(app)
    for _ in range(3):
        scheduler = Scheduler(app.crons, client, side)
        assert NOON == await scheduler.enqueue(NOON - timedelta(seconds=20))
        assert ["11:59"] == await minutes(app)
    for _ in range(2):
        assert NOON + timedelta(minutes=1) == await scheduler.enqueue(NOON - timedelta(seconds=5))
    assert ["11:59", "12:00"] == await minutes(app)
    ran = {job.id: job.outcome for job in await drain(app)}
    assert {f"cron:tick:2026-12-01T{at}:00+00:00" for at in ("11:59", "12:00")} == set(ran)
    assert all(outcome == Applied(job_id) for job_id, outcome in ran.items())


async def test_a_tick_that_has_run_has_no_second_effect(app: App, client: JobClient, side: SideConnection) -> None:
    """Also if Redis has forgotten it, because a worker with a late clock enqueues it: the ledger has its outcome."""
    every_minute(app)
    await Scheduler(app.crons, client, side).enqueue(NOON)
    assert 1 == len(await drain(app))
    await client._redis.flushdb()
    await Scheduler(app.crons, client, side).enqueue(NOON)
    assert ["12:00"] == await minutes(app)
    assert [] == await drain(app)


@pytest.mark.parametrize("catch_up", [False, True])
async def test_missed_ticks_are_skipped_or_made_up_for(
    app: App, client: JobClient, side: SideConnection, *, catch_up: bool
) -> None:
    """Those after the last one in the ledger, when all workers were down; those of the last minute always."""
    every_minute(app, "*/10 * * * *", catch_up=catch_up)
    await Scheduler(app.crons, client, side).enqueue(NOON)
    await drain(app)
    await Scheduler(app.crons, client, side).enqueue(NOON + timedelta(minutes=30, seconds=20))
    assert (["12:10", "12:20", "12:30"] if catch_up else ["12:30"]) == await minutes(app)


@pytest.mark.parametrize("catch_up", [False, True])
async def test_ticks_during_an_outage_of_redis_are_skipped_or_made_up_for(
    app: App, client: JobClient, side: SideConnection, *, catch_up: bool
) -> None:
    """By a scheduler that goes on."""
    every_minute(app, catch_up=catch_up)
    scheduler = Scheduler(app.crons, client, side)
    await scheduler.enqueue(NOON)
    await scheduler.enqueue(NOON + timedelta(minutes=5, seconds=30))
    made_up = ["12:01", "12:02", "12:03", "12:04"] if catch_up else []
    assert ["12:00", *made_up, "12:05"] == await minutes(app)


async def test_many_missed_ticks_are_enqueued_in_parts(app: App, client: JobClient, side: SideConnection) -> None:
    """Of a job that runs each second: 500 at once are the most."""
    every_minute(app, "* * * * * *", catch_up=True)
    scheduler = Scheduler(app.crons, client, side)
    await scheduler.enqueue(NOON)
    await scheduler.enqueue(NOON + timedelta(seconds=1200))
    assert 60 + 5 + 1200 == len(await queued(app))


async def test_a_drain_enqueues_no_ticks(app: App) -> None:
    """So a test sees the jobs that it has enqueued itself."""
    every_minute(app, "* * * * * *")
    assert [] == await drain(app)


async def test_a_worker_enqueues_the_ticks(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it runs."""
    monkeypatch.setattr(lifecycle.logs, "configure", lambda _level: None)
    has_run = asyncio.Event()

    @app.cron("* * * * * *")
    @app.job
    async def note(tx: Transaction) -> None:
        has_run.set()

    options = vars(lifecycle.settings_of_worker(app, app.settings.load(), in_test=False))
    given = {name: value for name, value in options.items() if not name.startswith("_")}
    worker = Worker(handle_signals=False, **given)
    worker.main_task = asyncio.create_task(worker.main())
    async with asyncio.timeout(20):
        await has_run.wait()
    await stop(worker)
