"""A worker's own port: `/health/live`, `/health/ready` and `/metrics`, answered beside its jobs.

It opens before the worker waits for its servers, and closes when all else is closed: whoever answers is alive.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.db.pool import Pool
from worker.db.side_connection import SideConnection
from worker.health.metrics import Metrics
from worker.health.readiness import Check, Readiness
from worker.listening import listen

_GRACE_S = 1
_BEATS_S = 4.0
"""As long as the sign of life in Redis lives."""


class HealthPort:
    """The port of one process, where it has one. Without, it is always ready, and nothing is looked at."""

    def __init__(self, host: str, port: int | None) -> None:
        self._host = host
        self._port = port
        self._metrics: Metrics | None = None
        self._readiness: Readiness | None = None
        self._beaten_s = -_BEATS_S
        self._tasks: list[asyncio.Task[None]] = []
        self._server: uvicorn.Server | None = None

    def beaten(self) -> None:
        """Take note that the engine goes round."""
        self._beaten_s = time.monotonic()

    def is_ready(self) -> bool:
        """Return whether the process was ready a moment ago."""
        return self._port is None or (self._readiness is not None and self._readiness.last.ready)

    async def open(self, ping: Callable[[], Awaitable[Any]]) -> None:
        """Answer from now on; *ping* asks Redis. Raises `worker.listening.CannotListen`."""
        if self._port is None:
            return
        listening = await listen(self._host, self._port)
        self._readiness = Readiness(ping, own={"engine": self._engine})
        self._server = _Server(_config(self._application()))
        self._tasks = [
            asyncio.create_task(self._server.serve([listening]), name="health server"),
            asyncio.create_task(self._readiness.run(), name="readiness"),
        ]

    def watch(self, pool: Pool, side: SideConnection, metrics: Metrics) -> None:
        """Look at these from now on."""
        self._metrics = metrics
        if self._readiness is not None:
            self._readiness.watch(pool, side=side)

    async def close(self) -> None:
        """Stop answering."""
        if self._server is None:
            return
        self._server.should_exit = True
        serving, looking = self._tasks
        looking.cancel()
        await asyncio.gather(serving, looking, return_exceptions=True)

    def _engine(self) -> Check:
        age_s = time.monotonic() - self._beaten_s
        return Check(ok=age_s < _BEATS_S, reason="goes round" if age_s < _BEATS_S else "does not go round")

    def _application(self) -> Starlette:
        pages = {
            "/health/live": self._answer_live,
            "/health/ready": self._answer_ready,
            "/metrics": self._answer_metrics,
        }
        return Starlette(routes=[Route(path, page) for path, page in pages.items()])

    async def _answer_live(self, _request: Request) -> Response:
        return JSONResponse({"alive": True})

    async def _answer_ready(self, _request: Request) -> Response:
        assert self._readiness is not None
        report = await self._readiness.look()
        return JSONResponse(report.document(), HTTPStatus.OK if report.ready else HTTPStatus.SERVICE_UNAVAILABLE)

    async def _answer_metrics(self, request: Request) -> Response:
        if self._metrics is None:
            return Response("the process is starting\n", HTTPStatus.SERVICE_UNAVAILABLE, media_type="text/plain")
        text, content_type = self._metrics.render(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})


def _config(application: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: SIGTERM is the worker's."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone."""
        yield
