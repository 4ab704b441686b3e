"""What the rooms of the front share: one connection pool and one Redis client of this process."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated

from arq.connections import ArqRedis
from fastapi import Depends, Request

from producer.client import JobClient
from producer.front.accepting import Accepting
from producer.front.fleet import Fleet
from producer.front.requests import Requests
from settings import Settings
from worker import servers
from worker.broker import ask, open_redis
from worker.db.pool import Pool
from worker.db.repositories import Repositories
from worker.embedded import Urls
from worker.health.loop_lag import LoopLag
from worker.health.metrics import Metrics
from worker.health.readiness import Readiness

PATIENCE_S = 2.0
"""How long a request goes on trying to reach Redis before it is answered 503."""


@dataclass(frozen=True, slots=True)
class Services:
    """What a request may use; open as long as the application runs."""

    settings: Settings
    urls: Urls
    pool: Pool
    redis: ArqRedis
    client: JobClient
    accepting: Accepting
    readiness: Readiness
    fleet: Fleet
    metrics: Metrics
    load_test: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the one that is under way."""


@asynccontextmanager
async def open_services(settings: Settings, urls: Urls, requests: Requests) -> AsyncGenerator[Services]:
    """Open what the front needs. Raises `worker.db.faults.Unavailable` where PostgreSQL is away; Redis may be."""
    pool = await Pool.open(servers.pool_config(settings, urls.database, "tidepool-front"))
    redis = open_redis(urls.redis, queue_name=settings.queue_name, connect_timeout_s=settings.connect_timeout)

    async def settled(job_ids: Sequence[str]) -> Collection[str]:
        async with pool.acquire() as connection:
            return [job.job_id for job in await Repositories(connection).results.finished(job_ids)]

    readiness = Readiness(functools.partial(ask, redis))
    readiness.watch(pool)
    lag = LoopLag()
    probe = asyncio.create_task(lag.run(), name="loop lag probe")
    try:
        yield Services(
            settings=settings,
            urls=urls,
            pool=pool,
            redis=redis,
            client=JobClient(redis, settled=settled, patience_s=PATIENCE_S),
            accepting=Accepting(redis, pool, patience_s=PATIENCE_S),
            readiness=readiness,
            fleet=Fleet(pool, stats_interval_s=settings.stats_interval),
            metrics=Metrics(pool, None, lag, beside=[requests]),
        )
    finally:
        probe.cancel()
        await redis.aclose(close_connection_pool=True)
        await pool.close()


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Using = Annotated[Services, Depends(_services)]
"""The parameter of a route that needs the services."""
