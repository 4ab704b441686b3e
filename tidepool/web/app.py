"""Assembles the web application: its routers, its middleware, and the services that it opens and closes."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute

from tidepool.app import App
from tidepool.embedded import Urls
from tidepool.settings import Settings
from tidepool.web import feed, health, jobs, page, sign_in
from tidepool.web.callers import Callers
from tidepool.web.guard import Guard
from tidepool.web.heads import AnswerHead
from tidepool.web.problems import RESPONSES, handle_problems
from tidepool.web.requests import Requests
from tidepool.web.services import open_services
from tidepool.web.shortcut import Shortcut
from tidepool.web.sign_in import Access

_DESCRIPTION = "Enqueue commands, wait for their outcomes, read what the service knows."

ROUTERS: tuple[APIRouter, ...] = (sign_in.router, page.router, feed.router, jobs.router, health.router)
"""The library's routers, a module each."""


def create_app(
    app: App,
    settings: Settings,
    urls: Urls,
    *,
    routers: Iterable[APIRouter] = (),
    quick: Iterable[BaseRoute] = (),
) -> FastAPI:
    """Return the web application of *app*. It opens its services when it starts, and closes them when it stops.

    *routers* are the application's own. *quick* are those of their routes that may get many requests a second: they are
    called without FastAPI's routing, see `tidepool.web.shortcut`.
    """
    requests = Requests()

    @asynccontextmanager
    async def lifespan(web: FastAPI) -> AsyncGenerator[None]:
        async with open_services(settings, urls, app.migrations, requests) as web.state.services:
            web.state.feed = feed.Feed(web.state.services)
            yield

    web = FastAPI(
        title="Tidepool",
        description=_DESCRIPTION,
        lifespan=lifespan,
        responses=RESPONSES,
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},  # /metrics is ours
    )
    web.add_middleware(Shortcut, front=web, routes=quick)
    token = settings.front_token
    web.state.access = access = Access(token.get_secret_value() if token else None)
    callers = Callers(settings.front_trusted_proxies)
    web.add_middleware(Guard, access=access, rate_limit=settings.front_rate_limit, callers=callers)
    web.add_middleware(AnswerHead)
    web.add_middleware(requests.count_all)  # the last one sees all, those that the guard refuses, too
    handle_problems(web)
    for router in (*ROUTERS, *routers):
        web.include_router(router)
    web.mount("/static", page.static_files, name="static")
    return web
