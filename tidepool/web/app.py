"""Assembles the web application: its routers, its middleware, and the services that it opens and closes.

Services are what the routes share, such as the connection pool.
"""

import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from prometheus_client import Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidepool.app import App
from tidepool.embedded import Urls
from tidepool.settings import Settings
from tidepool.web import feed, health, jobs, page, sign_in
from tidepool.web.callers import Callers
from tidepool.web.guard import Guard
from tidepool.web.problems import HANDLERS, RESPONSES
from tidepool.web.services import Services
from tidepool.web.sign_in import Access

_LABELS = ("http_request_method", "http_route", "http_response_status_code")
"""Of the metric of requests, as OpenTelemetry names them."""
_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_DESCRIPTION = "Read and manage jobs, their outcomes, and the connection pools of the workers."

ROUTERS: tuple[APIRouter, ...] = (sign_in.router, page.router, feed.router, jobs.router, health.router)
"""The library's routers, a module each."""


def create_app(
    app: App,
    settings: Settings,
    urls: Urls,
    *,
    routers: Iterable[APIRouter] = (),
    quick: Iterable[BaseRoute] = (),
    program: str = "tidepool",
) -> FastAPI:
    """Return the web application of *app*. It opens its services when it starts, and closes them when it stops.

    *routers* are the application's own. *quick* are those of their routes that may get many requests a second: for a
    POST request, the endpoint of such a route is called without FastAPI's routing. The path of such a route may have no
    parameters, and the endpoint takes the request and the services. *program* is the command line that has the
    operators' commands for *app*, as the page names it, such as `tidepool --app shop.app:app`.
    """
    requests = _Requests()

    @asynccontextmanager
    async def lifespan(web: FastAPI) -> AsyncGenerator[None]:
        async with Services.open(settings, urls, app.migrations, [requests]) as web.state.services:
            web.state.feed = feed.Feed(web.state.services)
            yield

    web = FastAPI(
        title="Tidepool",
        description=_DESCRIPTION,
        lifespan=lifespan,
        responses=RESPONSES,
        exception_handlers=HANDLERS,
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},  # /metrics is ours
    )
    web.add_middleware(_Shortcut, front=web, routes=quick)
    token = settings.front_token
    web.state.program = program
    web.state.access = access = Access(token.get_secret_value() if token else None)
    web.add_middleware(Guard, access, settings.front_rate_limit, Callers(settings.front_trusted_proxies))
    web.add_middleware(_AnswerHead)
    web.add_middleware(requests.count_all)  # the last one sees all, those that the guard refuses, too
    for router in (*ROUTERS, *routers):
        web.include_router(router)
    web.mount("/static", page.static_files, name="static")
    return web


class _Shortcut:
    """ASGI middleware that calls the endpoints of *routes* for POST requests, and passes others on to *app*.

    FastAPI looks for the route in every router and resolves its parameters, which takes three times as long as
    enqueueing a job does. Here the endpoint is found by its path. Errors are answered by the handlers of *front*, and
    `scope["route"]` is set as FastAPI sets it. Routes whose path has parameters are not called.
    """

    def __init__(self, app: ASGIApp, *, front: FastAPI, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._routes = {
            route.path: route
            for route in routes
            if isinstance(route, APIRoute) and "POST" in (route.methods or ()) and not route.param_convertors
        }
        handlers = {kind: handler for kind, handler in front.exception_handlers.items() if kind is not Exception}
        self._answered = ExceptionMiddleware(self._answer, handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request: call the endpoint of its path, or pass it on."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._routes:
            scope["route"] = self._routes[scope["path"]]
            await self._answered(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response = await scope["route"].endpoint(request, request.app.state.services)
        await response(scope, receive, send)


class _Streams(Exception):
    """Raised to end a response that is a stream, of which nothing more is needed."""


class _AnswerHead:
    """ASGI middleware that passes a HEAD request on to *app* as GET, and omits the body of the response.

    A response that is a stream ends at once.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request: a HEAD request as described above, any other one unchanged."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            if message.get("more_body", False):
                raise _Streams

        as_get = {**scope, "method": "GET"}
        with suppress(_Streams):
            await self._app(as_get, receive, send_head)
        if "route" in as_get:
            scope["route"] = as_get["route"]  # for the count of requests by route


class _Requests(Collector):
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

    def __init__(self, app: ASGIApp, requests: _Requests) -> None:
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
