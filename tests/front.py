"""The HTTP front in the test's own process: its application, asked without a socket.

The fixtures here are those of the folders whose conftest.py imports them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from arq.connections import ArqRedis
from fastapi import FastAPI
from planting import a_worker

from producer.http import create_front
from settings import load
from tidepool.embedded import Urls
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool

TOKEN = "sesame-open-sesame"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
WAIT = {"Prefer": "wait=20"}


@asynccontextmanager
async def a_front(database_url: str, redis_url: str, **variables: str) -> AsyncIterator[httpx.AsyncClient]:
    """Run the front until the block ends; gives a client of it. *variables* are further settings."""
    async with running(front_app(database_url, redis_url, **variables)) as http:
        yield http


def front_app(database_url: str, redis_url: str, **variables: str) -> FastAPI:
    """Return the front's application, not yet running. *variables* are further settings."""
    settings = load({"DATABASE_URL": database_url, "REDIS_URL": redis_url, **variables})
    return create_front(settings, Urls(database_url, redis_url))


@asynccontextmanager
async def running(app: FastAPI, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Run *app* until the block ends; gives a client of it, whose errors are answers, as over a socket."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", **options) as http,
    ):
        yield http


@pytest.fixture
async def front(database: PoolConfig, redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of a front without a token."""
    async with a_front(database.url, redis_url) as http:
        yield http


@pytest.fixture
async def served(
    front: httpx.AsyncClient, redis: ArqRedis, pool: Pool, connection: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of a front whose jobs a worker runs, on an empty database."""
    await connection.execute("TRUNCATE users, products, orders, job_results RESTART IDENTITY")
    async with a_worker(redis, pool):
        yield front
