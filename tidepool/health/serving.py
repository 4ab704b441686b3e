"""Serves a worker's METRICS_PORT: `/health/live`, `/health/ready` and `/metrics`.

The port opens before the worker waits for PostgreSQL and Redis, and closes last, so a process that answers is alive.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from tidepool.bounded_http.listening import CannotListen, listen_at
from tidepool.health.metrics import Metrics
from tidepool.health.readiness import Condition, Readiness
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.migrator import Migrations

if TYPE_CHECKING:
    from tidepool.health.probes import ProbeServer

_BEATS_S = 4.0
"""Seconds without a round of the engine after which it counts as stuck: the TTL of arq's health-check key."""


class HealthPort:
    """The HTTP port of one worker process for health checks and metrics (METRICS_PORT).

    If *port* is None nothing is opened, no checks run, and the process counts as ready. *migrations* are those that
    the database must have; None for a process that works without a database. *own* are further readiness checks.
    """

    def __init__(
        self,
        host: str,
        port: int | None,
        migrations: Migrations | None,
        own: Mapping[str, Callable[[], Condition]] | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._migrations = migrations
        self._own = own or {}
        self._metrics: Metrics | None = None
        self._readiness: Readiness | None = None
        self._beaten_s = -_BEATS_S
        self._tasks: list[asyncio.Task[None]] = []
        self._server: ProbeServer | None = None

    def beaten(self) -> None:
        """Record a heartbeat of the engine, the worker's main loop.

        After four seconds without one, the process is not ready.
        """
        self._beaten_s = time.monotonic()

    def is_ready(self) -> bool:
        """Return whether the last readiness check, about a second ago, passed; True if there is no port."""
        return self._port is None or (self._readiness is not None and self._readiness.last.ready)

    async def open(self, ping: Callable[[], Awaitable[object]]) -> None:
        """Open the port and begin the readiness checks. *ping* is called to check Redis; it raises if Redis is silent.

        Raises `tidepool.bounded_http.listening.CannotListen` if the address cannot be bound or a package is not
        installed.
        """
        if self._port is None:
            return
        try:
            from tidepool.health.probes import ProbeServer  # noqa: PLC0415  (most workers have no port: see there)
        except ModuleNotFoundError as error:
            raise CannotListen(f"{error.name} is missing: pip install 'arq-tidepool[web]'") from None

        listening = await listen_at(self._host, self._port)
        self._readiness = Readiness(ping, self._migrations, own={"engine": self._engine, **self._own})
        self._server = ProbeServer(self._host, self._readiness.look, self._rendered)
        self._tasks = [
            asyncio.create_task(self._server.serve(listening), name="health server"),
            asyncio.create_task(self._readiness.run(), name="readiness"),
        ]

    def watch(self, metrics: Metrics, pool: Pool | None = None, side: SideConnection | None = None) -> None:
        """Begin to serve *metrics*, and to check *pool* and, over the connection *side*, PostgreSQL."""
        self._metrics = metrics
        if self._readiness is not None and pool is not None:
            self._readiness.watch(pool, side=side)

    async def close(self) -> None:
        """Close the port and end the readiness checks. Requests in progress have one second to end."""
        if self._server is None:
            return
        self._server.should_exit = True
        serving, looking = self._tasks
        looking.cancel()
        await asyncio.gather(serving, looking, return_exceptions=True)

    def _engine(self) -> Condition:
        age_s = time.monotonic() - self._beaten_s
        return Condition(ok=age_s < _BEATS_S, reason="goes round" if age_s < _BEATS_S else "does not go round")

    def _rendered(self, accept: str) -> tuple[bytes, str] | None:
        return self._metrics.recent(accept) if self._metrics else None
