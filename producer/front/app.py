"""The application: its rooms, and what it opens and closes."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from producer.front import jobs, reading
from producer.front.problems import handle_problems
from producer.front.services import open_services
from settings import Settings
from worker.embedded import Urls

_DESCRIPTION = "Enqueue commands, wait for their outcomes, read what the service knows."

ROOMS: tuple[APIRouter, ...] = (jobs.router, reading.router)
"""The routers, a module each."""


def create_app(settings: Settings, urls: Urls) -> FastAPI:
    """Return the application. It opens its services when it starts, and closes them when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with open_services(settings, urls) as app.state.services:
            yield

    app = FastAPI(title="Tidepool", description=_DESCRIPTION, lifespan=lifespan)
    handle_problems(app)
    for room in ROOMS:
        app.include_router(room)
    return app
