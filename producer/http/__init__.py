"""The HTTP front: the service's web application, with routes for users, products, orders and load tests.

`commands` enqueues jobs, `reading` returns what is stored, `burst` runs load tests. The operators' page, the API of
jobs and pools, and authentication and limits come from `tidepool.web`.
"""

from fastapi import FastAPI

from producer.http import burst, commands, reading
from settings import Settings
from tidepool import Urls
from tidepool.web import create_app
from worker import app

__all__ = ["create_front"]


def create_front(settings: Settings, urls: Urls) -> FastAPI:
    """Return the web application of the service. It connects to the servers in *urls* when it starts."""
    routers = (commands.router, burst.router, reading.router)
    return create_app(app, settings, urls, routers=routers, quick=commands.router.routes, program="python -m worker")
