"""The HTTP routes of a worker's METRICS_PORT: `/health/live`, `/health/ready` and `/metrics`.

The port shares the event loop with the jobs, so the load that callers can cause is limited: new connections per second,
answers per second, and open connections. Callers above the rates wait. A port that is bound to loopback answers only
requests for this machine's names. `serving` imports this module only if there is a port: the HTTP server takes 4 MB and
a tenth of a second.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tidepool.bounded_http.limits import Limits, Pace
from tidepool.bounded_http.listening import is_loopback
from tidepool.bounded_http.server import BoundedServer
from tidepool.health.readiness import ReadinessReport

_GRACE_S = 1
"""Seconds that requests get to end when the process stops."""
_BODY_BYTES = 4096
"""Max body of a request: probes send none."""
_ACCEPTS_PER_S, _FIRST_REQUESTS_PER_S = 800.0, 40.0
"""New connections a second, and how many of them get their first request handled: some 25 µs and 0.5 ms of the worker's
event loop each."""
_REFUSAL_DELAY_S = 5.0
"""Seconds before a refused connection is closed, so that its client does not come again at once."""
_CONNECTIONS, _SHARE = 512, 0.25
"""Max connections, and the share of the process's file descriptors that they may take: the jobs need the others."""
_METRICS_PER_S, _HEALTH_PER_S = 10, 50
"""Answers a second. Each takes some 0.2 ms of the worker's event loop."""
_AT_ONCE_S = 0.1
"""How much of these answers is given at once after a pause, in seconds of their rate."""
_MAX_WAIT_S = 10.0
"""Seconds that a request waits for its turn before it is answered 429."""

_UVICORN: dict[str, Any] = {
    "http": "httptools",
    "ws": "none",
    "lifespan": "off",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "proxy_headers": False,
    "timeout_graceful_shutdown": _GRACE_S,
}
"""uvicorn's settings: HTTP only, and no log lines or headers of its own."""

Endpoint = Callable[[Request], Awaitable[Response]]
Look = Callable[[], Awaitable[ReadinessReport]]
Render = Callable[[str], tuple[bytes, str] | None]


class ProbeServer(BoundedServer):
    """The HTTP server of a worker's METRICS_PORT, with the routes for liveness, readiness and metrics.

    *look* is called for a request and returns the readiness report. *render* takes an Accept header and returns the
    metrics and their content type, or None while the process starts. *host* is the address that the port is bound to:
    on a loopback address, only requests for this machine's names are answered.
    """

    def __init__(self, host: str, look: Look, render: Render) -> None:
        async def live(_request: Request) -> Response:
            return JSONResponse({"alive": True})

        async def ready(_request: Request) -> Response:
            report = await look()
            return JSONResponse(report.document(), HTTPStatus.OK if report.ready else HTTPStatus.SERVICE_UNAVAILABLE)

        async def metrics(request: Request) -> Response:
            rendered = render(request.headers.get("accept", ""))
            if rendered is None:
                return Response("the process is starting\n", HTTPStatus.SERVICE_UNAVAILABLE, media_type="text/plain")
            return Response(rendered[0], headers={"Content-Type": rendered[1]})

        health, figures = (Pace(per_s, per_s * _AT_ONCE_S) for per_s in (_HEALTH_PER_S, _METRICS_PER_S))
        self.local_only = local_only = is_loopback(host)
        routes = [
            Route("/health/live", _paced(live, health, local_only=local_only)),
            Route("/health/ready", _paced(ready, health, local_only=local_only)),
            Route("/metrics", _paced(metrics, figures, local_only=local_only)),
        ]
        limits = Limits(
            _CONNECTIONS,
            body_bytes=_BODY_BYTES,
            accepts_per_s=_ACCEPTS_PER_S,
            first_requests_per_s=_FIRST_REQUESTS_PER_S,
            refusal_delay_s=_REFUSAL_DELAY_S,
            share_of_files=_SHARE,
        )
        super().__init__(uvicorn.Config(Starlette(routes=routes), **_UVICORN), limits)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Install no signal handlers, unlike uvicorn: the worker handles SIGTERM."""
        yield


def _paced(endpoint: Endpoint, pace: Pace, *, local_only: bool) -> Endpoint:
    """Return *endpoint* with a rate limit and a check of the Host header.

    A request without a Host header passes the check, because old probes send none.
    """

    async def answer(request: Request) -> Response:
        if local_only and not is_loopback(request.headers.get("host", "localhost")):
            return Response("the port answers to localhost only\n", HTTPStatus.MISDIRECTED_REQUEST)
        wait_s = pace.wait_s()
        if wait_s <= _MAX_WAIT_S:
            pace.admit()
        await asyncio.sleep(min(wait_s, _MAX_WAIT_S))
        if wait_s > _MAX_WAIT_S:
            return Response("too many requests\n", HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": "10"})
        return await endpoint(request)

    return answer
