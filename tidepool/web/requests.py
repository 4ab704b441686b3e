"""Counts requests for Prometheus: number and duration by route and status, with OpenTelemetry's names."""

import time
from collections.abc import Iterator

from prometheus_client import Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LABELS = ("http_request_method", "http_route", "http_response_status_code")
_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Requests(Collector):
    """Counts the requests that this process has answered, and their durations, for Prometheus."""

    def __init__(self) -> None:
        self._seconds = Histogram(
            "http_server_request_duration_seconds", "Requests.", _LABELS, buckets=_BOUNDS_S, registry=None
        )

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now, for Prometheus's client library."""
        yield from self._seconds.collect()

    def count_all(self, app: ASGIApp) -> ASGIApp:
        """Return *app* in an ASGI middleware that counts every answered request; a stream counts when it ends."""
        return _CountRequests(app, self)

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request that has been answered after *seconds*.

        The label for its route is the template of the path, or empty if no route matched.
        """
        route = getattr(scope.get("route"), "path_format", "")
        self._seconds.labels(scope["method"], route, str(status)).observe(seconds)


class _CountRequests:
    """Measures each request, and counts it when it has been answered."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request: pass it on, and count it when it has been answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began_s = time.perf_counter()
        try:
            await self._app(scope, receive, watched)
        finally:
            self._requests.count(scope, status, time.perf_counter() - began_s)
