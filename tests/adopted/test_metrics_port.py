"""The METRICS_PORT of an adopted application's worker: alive, ready, and figures, with and without a database."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import arq.worker
import httpx
import pytest
from arq.connections import ArqRedis, RedisSettings
from arq.worker import func
from commands import until
from prometheus_client.parser import text_string_to_metric_families as parse
from sqlalchemy.ext.asyncio import create_async_engine

import tidepool
from tidepool.adopted_settings import AdoptedSettings
from tidepool.engine.worker import StartError
from tidepool.health.readiness import ReadinessReport

NOWHERE = "postgresql://u:p@127.0.0.1:1/db"


async def double(ctx: dict[Any, Any], number: int) -> int:
    """Return twice the number, on the second try."""
    if ctx["job_try"] == 1:
        raise arq.Retry
    return 2 * number


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Give a port that was free a moment ago, which is the METRICS_PORT."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.getsockname()[1]
    monkeypatch.setenv("TIDEPOOL_METRICS_PORT", str(number))
    return number


@pytest.fixture
async def start(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Any]]:
    """Give a function that starts a worker of adopted settings; it is stopped at the end."""
    monkeypatch.delenv("TIDEPOOL_DATABASE_URL", raising=False)
    started: list[tuple[arq.worker.Worker, asyncio.Task[None]]] = []

    def begin(**options: Any) -> asyncio.Task[None]:
        settings: dict[str, Any] = {
            "functions": [func(double, name="double")],
            "redis_settings": RedisSettings.from_dsn(redis_url),
            "poll_delay": 0.01,
            "handle_signals": False,
        }
        worker = arq.worker.create_worker(tidepool.adopt(settings, **options))  # type: ignore[arg-type]
        started.append((worker, asyncio.create_task(worker.async_run())))
        return started[-1][1]

    yield begin
    for worker, task in started:
        task.cancel()
        await asyncio.wait([task])
        await worker.close()


@pytest.fixture
async def http(port: int) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of the port."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


async def report(http: httpx.AsyncClient) -> dict[str, Any]:
    """Wait until the worker is ready, and return the checks."""

    async def ready() -> Any:
        try:
            answer = await http.get("/health/ready")
        except httpx.ConnectError:
            return None
        return answer.json()["checks"] if answer.status_code == 200 else None

    return await until(ready)


async def samples(http: httpx.AsyncClient, name: str) -> dict[str, float]:
    """Return the values of a metric, by its last label."""
    families = {family.name: family for family in parse((await http.get("/metrics")).text)}
    return {[*one.labels.values()][-1]: one.value for one in families[name].samples} if name in families else {}


async def test_a_worker_without_a_database_is_ready_and_counts_jobs_by_function(
    start: Callable[..., Any], http: httpx.AsyncClient, redis: ArqRedis
) -> None:
    """A retried job counts when it has ended; nothing is said about pools, as none is known."""
    start()
    checks = await report(http)
    assert {"redis", "engine", "records"} == set(checks)
    assert {"alive": True} == (await http.get("/health/live")).json()
    job = await redis.enqueue_job("double", 4)
    assert job is not None
    assert 8 == await job.result(timeout=10)

    async def counted() -> bool:
        return 1.0 == (await samples(http, "tidepool_jobs")).get("applied")

    await until(counted)
    assert {"double": 1.0} == await samples(http, "tidepool_job_retries")
    assert {} == await samples(http, "db_client_connection_count")


async def test_a_database_that_is_away_makes_no_worker_unready(
    start: Callable[..., Any], http: httpx.AsyncClient, redis: ArqRedis
) -> None:
    """Jobs run without it; the report has a warning. The pool's figures are those of the application's engine."""
    start(database_url=NOWHERE, pool=lambda _ctx: create_async_engine("postgresql+asyncpg://", pool_size=7))
    job = await redis.enqueue_job("double", 1)
    assert job is not None
    await job.result(timeout=10)

    async def warned() -> bool:
        return "PostgreSQL" in (await report(http))["records"].get("warning", "")

    await until(warned)
    assert {"tidepool": 7.0} == await samples(http, "db_client_connection_idle_min")


async def test_a_worker_that_is_not_ready_leaves_arqs_health_key_alone(
    start: Callable[..., Any], http: httpx.AsyncClient, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that `arq --check` agrees with the port."""
    monkeypatch.setattr(ReadinessReport, "ready", False)
    start()

    async def beating() -> bool:
        try:
            return (await http.get("/health/ready")).json()["checks"]["engine"]["ok"]
        except (httpx.ConnectError, KeyError):
            return False

    await until(beating)
    assert not await redis.exists("arq:queue:health-check")


async def test_a_port_that_is_taken_ends_the_worker(start: Callable[..., Any], port: int) -> None:
    """With the name of the variable."""
    words = rf"TIDEPOOL_METRICS_PORT: cannot serve on 127\.0\.0\.1, port {port}"
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StartError, match=words):
        await start()


def test_each_worker_of_several_has_the_next_port(port: int) -> None:
    """The first has the one that is set."""
    settings = AdoptedSettings.load()
    assert [{}, {"TIDEPOOL_METRICS_PORT": str(port + 1)}] == [settings.variables_of_worker(n) for n in range(2)]
