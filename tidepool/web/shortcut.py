"""Calls the endpoints of frequent requests without FastAPI's routing.

FastAPI looks for the route in every router and resolves its parameters, which takes three times as long as enqueueing a
job does. Here a request goes straight to the same endpoint by its path; errors are answered by the same handlers, and
`scope["route"]` is set as FastAPI sets it.
"""

from collections.abc import Iterable

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send


class Shortcut:
    """ASGI middleware that calls the endpoints of *routes* for POST requests, and passes others on to *app*.

    Only routes whose path has no parameters are called. Their endpoints take the request and the services. *front* is
    the application whose error handlers are used.
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
