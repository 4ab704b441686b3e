"""Opens what all routes of the web application share: one connection pool, one Redis client, and what uses them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Annotated, Self

from fastapi import Depends, Request
from prometheus_client.registry import Collector

from tidepool.client import JobClient
from tidepool.embedded import Urls
from tidepool.health.loop_lag import LoopLag
from tidepool.health.metrics import Metrics
from tidepool.health.readiness import Readiness
from tidepool.pool.pool import Pool
from tidepool.queue.connection import RedisClient
from tidepool.settings import Settings
from tidepool.storage.migrator import Migrations
from tidepool.web.accepting import Accepting
from tidepool.web.fleet import FleetFigures

PATIENCE_S = 2.0
"""How long a request goes on trying to reach Redis before it is answered 503."""


@dataclass(frozen=True, slots=True)
class Services:
    """What all routes of the web application share, such as the connection pool. Open while the application runs."""

    settings: Settings
    urls: Urls
    pool: Pool
    redis: RedisClient
    client: JobClient
    accepting: Accepting
    readiness: Readiness
    fleet: FleetFigures
    metrics: Metrics
    load_test: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the load test that is in progress."""
    opened_s: float = field(default_factory=monotonic)
    """When the pool was opened, by the monotonic clock."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, urls: Urls, migrations: Migrations, collectors: Sequence[Collector]
    ) -> AsyncGenerator[Self]:
        """Open the services for an `async with` block, and close them at its end.

        *collectors* add further metrics to the application's own. Raises `tidepool.pool.faults.Unavailable` if
        PostgreSQL is unavailable; Redis need not be available.
        """
        pool = await Pool.open(settings.pool_config(urls.database, "tidepool-front"))
        redis = RedisClient.open(urls.redis, queue_name=settings.queue_name, connect_timeout_s=settings.connect_timeout)

        readiness = Readiness(redis.ask, migrations)
        readiness.watch(pool)
        lag = LoopLag()
        probe = asyncio.create_task(lag.run(), name="loop lag probe")
        try:
            yield cls(
                settings=settings,
                urls=urls,
                pool=pool,
                redis=redis,
                client=JobClient(redis, ledger=pool, patience_s=PATIENCE_S),
                accepting=Accepting(redis, pool, patience_s=PATIENCE_S),
                readiness=readiness,
                fleet=FleetFigures(pool),
                metrics=Metrics(pool, None, lag, beside=collectors),
            )
        finally:
            probe.cancel()
            await redis.aclose(close_connection_pool=True)
            await pool.close()

    def pool_gauges(self) -> dict[str, int]:
        """Return the present figures of this process's pool by name: sizes, connections in use, and waiting callers."""
        return {
            "min_size": self.pool.config.min_size,
            "max_size": self.pool.config.max_size,
            "pool_limit": self.pool.limit,
            "size": self.pool.size,
            "idle": self.pool.idle,
            "in_use": self.pool.stats.in_use,
            "waiting": self.pool.stats.waiting,
        }

    def totals(self) -> dict[str, float]:
        """Return the figures of this process's pool since it was opened, by name: queries, errors, connections."""
        stats = self.pool.stats
        runtime_s = monotonic() - self.opened_s
        return {
            "runtime_seconds": round(runtime_s, 3),
            "queries_executed": stats.queries,
            "queries_per_second": round(stats.queries / runtime_s, 3),
            "errors": stats.query_errors,
            "error_rate": round(stats.query_errors / stats.queries, 6) if stats.queries else 0.0,
            "connections_created": stats.connections_opened,
            "connections_acquired": stats.acquire_ok,
            "connections_released": stats.acquire_ok - stats.in_use,
        }


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Using = Annotated[Services, Depends(_services)]
"""The parameter of a route that needs the services."""
