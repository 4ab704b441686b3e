"""The HTTP front of users, products and orders: routes for commands, for what is stored, and for load tests.

The operators' page, the API of jobs and pools, and everything that guards them come from `tidepool.web`.
"""

from fastapi import FastAPI

from producer.http import burst, commands, reading
from settings import Settings
from tidepool import Urls
from tidepool.web import create_app
from worker import app

__all__ = ["create_front"]


def create_front(settings: Settings, urls: Urls) -> FastAPI:
    """Return the web application of the service, which connects to *urls* when it starts."""
    routers = (commands.router, burst.router, reading.router)
    return create_app(app, settings, urls, routers=routers, quick=commands.router.routes)
