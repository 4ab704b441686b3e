"""The settings classes that the measured workers run with: `arq lab.bench.targets.<Name>`.

Workers of stock arq run each job as one plain transaction, as one would write it by hand: no ledger, no batches. They
read the same jobs as the service: the same JSON, the same fields.
"""

import asyncio
from typing import Any

import asyncpg
import uvloop
from arq.worker import Retry

from tidepool import process
from tidepool.engine.options import EngineOptions
from tidepool.engine.worker import Worker
from tidepool.queue import wire
from tidepool.queue.connection import RedisClient
from tidepool.settings import Settings
from tidepool.urls import PostgresUrl

_SETTINGS = Settings.load()
_URLS = _SETTINGS.urls
_Context = dict[str, Any]
_STOCK_POOL_SIZE = 10
"""Connections in the pool of stock arq: the size that was fastest with one transaction per job."""


async def noop(_ctx: _Context, value: int) -> int:
    """Return *value*: a job that does nothing."""
    return value


async def create_user(ctx: _Context, *, username: str, email: str, full_name: str, is_active: bool = True) -> int:
    """Insert a user in a transaction of its own; return the new id."""
    async with ctx["pool"].acquire() as connection, connection.transaction():
        return await connection.fetchval(
            "INSERT INTO users (username, email, full_name, is_active) VALUES ($1, $2, $3, $4) RETURNING id",
            *(username, email, full_name, is_active),
        )


async def create_product(ctx: _Context, *, sku: str, name: str, price: str, category: str, **rest: object) -> int:
    """Insert a product in a transaction of its own; return the new id."""
    async with ctx["pool"].acquire() as connection, connection.transaction():
        return await connection.fetchval(
            "INSERT INTO products (sku, name, description, price, category, in_stock)"
            " VALUES ($1, $2, $3, $4::text::numeric, $5, $6) RETURNING id",
            *(sku, name, rest.get("description", ""), price, category, rest.get("in_stock", True)),
        )


async def place_order(ctx: _Context, *, username: str, sku: str, quantity: int, **_: object) -> int | str:
    """Find a user and a product and insert an order of them, in one transaction; return the new id.

    Returns "rejected" if the user is inactive or the product out of stock. If one is missing, the job is retried after
    0.25 s.
    """
    async with ctx["pool"].acquire() as connection, connection.transaction():
        user = await connection.fetchrow("SELECT id, is_active FROM users WHERE username = $1", username)
        product = await connection.fetchrow("SELECT id, price, in_stock FROM products WHERE sku = $1", sku)
        if user is None or product is None:
            raise Retry(0.25)
        if not user["is_active"] or not product["in_stock"]:
            return "rejected"
        return await connection.fetchval(
            "INSERT INTO orders (user_id, product_id, quantity, total_price) VALUES ($1, $2, $3, $4) RETURNING id",
            *(user["id"], product["id"], quantity, product["price"] * quantity),
        )


async def _open_pool(ctx: _Context) -> None:
    ctx["pool"] = await asyncpg.create_pool(
        **PostgresUrl.parse(_URLS.database).driver_arguments(), min_size=_STOCK_POOL_SIZE, max_size=_STOCK_POOL_SIZE
    )


async def _close_pool(ctx: _Context) -> None:
    await ctx["pool"].close()


async def _connect() -> RedisClient:
    """Connect to Redis as the service's workers do."""
    return RedisClient.open(_URLS.redis, queue_name=_SETTINGS.queue_name)


class ArqDefault:
    """Stock arq with its default settings, except for the serializer, which reads this service's jobs."""

    functions = (noop, create_user, create_product, place_order)
    on_startup = _open_pool
    on_shutdown = _close_pool
    redis_settings = RedisClient.settings_for(_URLS.redis)
    job_serializer = wire.serialize
    job_deserializer = wire.deserialize


def __getattr__(name: str) -> type:
    """Make the other settings classes when arq asks for them, since each changes the process in its own way.

    `ArqTuned` is stock arq with faster settings and uvloop, `ArqTunedNoop` the same without a database, and
    `EngineNoop` this service's engine without a database. Raises `AttributeError` for any other name.
    """
    if name == "ArqTuned":
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # pyright: ignore[reportDeprecated]
        return type(name, (), {**vars(ArqDefault), **TUNED})
    if name == "EngineNoop":
        Worker.install()
        process.tune_for_throughput()
        ours = {"max_jobs": _SETTINGS.max_jobs, "tidepool": EngineOptions(connect=_connect)}
        return type(name, (), {**vars(ArqDefault), **TUNED, **_NO_DATABASE, **ours})
    if name == "ArqTunedNoop":
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # pyright: ignore[reportDeprecated]
        return type(name, (), {**vars(ArqDefault), **TUNED, **_NO_DATABASE})
    raise AttributeError(name)


TUNED = {"max_jobs": 100, "poll_delay": 0.01, "log_results": False}
_NO_DATABASE = {"functions": (noop,), "on_startup": None, "on_shutdown": None}
QUIET_LOGS: dict[str, object] = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"arq": {"level": "WARNING"}},
}
"""The `--custom-log-dict` of all workers but default arq: it logs only warnings, since lines per job cost much time."""
