"""The shop's background jobs. `arq shop.tasks.WorkerSettings` runs them."""

import asyncio
import hashlib
import os
import socket
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from arq import Retry, cron, func
from arq.connections import RedisSettings
from pydantic import BaseModel, PositiveInt

from shop import db

Context = dict[str, Any]
"""What arq hands to each function; `startup` adds the connection pool as `db` and the worker's name as `name`."""

WORKERS = "shop:workers"
"""The Redis set with the names of the running workers, for the shop's dashboard."""
REDIS = RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://localhost"))


@dataclass(frozen=True)
class Buyer:
    """Who buys; known by the email address."""

    email: str
    name: str


class Line(BaseModel):
    """One product in a basket."""

    sku: str
    quantity: PositiveInt
    price: Decimal


class Basket(BaseModel):
    """What is bought."""

    lines: list[Line]

    @property
    def total(self) -> Decimal:
        """The price of all lines."""
        return sum((line.price * line.quantity for line in self.lines), Decimal())


class UnknownUser(Exception):
    """No user has this email address."""


async def place_order(
    ctx: Context, buyer: Buyer, basket: Basket, *, ref: UUID, voucher: Decimal = Decimal(), at: datetime
) -> int:
    """Store an order, and enqueue its charge; return the order's id. The same *ref* is the same order."""
    async with ctx["db"].acquire() as connection, connection.transaction():
        user_id = await connection.fetchval(
            "INSERT INTO users (email, name) VALUES ($1, $2)"
            " ON CONFLICT (email) DO UPDATE SET name = excluded.name RETURNING id",
            *(buyer.email, buyer.name),
        )
        total = basket.total - voucher
        order_id: int = await connection.fetchval(
            "INSERT INTO orders (user_id, ref, total, placed_at) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (ref) DO UPDATE SET total = excluded.total RETURNING id",
            *(user_id, ref, total, at),
        )
    await ctx["redis"].enqueue_job("charge", order_id, int(total * 100), _job_id=f"charge-{ref}")
    return order_id


async def charge(ctx: Context, order_id: int, cents: int) -> int:
    """Charge an order; return the charge's id."""
    return await ctx["db"].fetchval(
        "INSERT INTO charges (order_id, cents) VALUES ($1, $2) RETURNING id", order_id, cents
    )


async def confirm(ctx: Context, order_id: int) -> int:
    """Mark an order as paid when it has been charged; return how many tries that took.

    Retries after 0.2 s, 0.4 s and so on until there is a charge.
    """
    if not await ctx["db"].fetchval("SELECT EXISTS (SELECT FROM charges WHERE order_id = $1)", order_id):
        raise Retry(defer=0.2 * ctx["job_try"])
    await ctx["db"].execute("UPDATE orders SET status = 'paid' WHERE id = $1", order_id)
    return ctx["job_try"]


async def sign_receipt(ctx: Context, order_id: int) -> str:
    """Return the signature of an order's receipt, which takes some tenths of a second to compute."""
    total = await ctx["db"].fetchval("SELECT total FROM orders WHERE id = $1", order_id)
    return await asyncio.to_thread(signature, f"order {order_id}: {total}")


def signature(text: str) -> str:
    """Return the slow hash of *text* that the shop signs with."""
    return hashlib.pbkdf2_hmac("sha256", text.encode(), b"the shop's key", 500_000).hex()


async def balance(ctx: Context, email: str) -> Decimal:
    """Return what a user still has to pay. Raises `UnknownUser`."""
    async with ctx["db"].acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        user_id = await connection.fetchval("SELECT id FROM users WHERE email = $1", email)
        if user_id is None:
            raise UnknownUser(email)
        return await connection.fetchval(
            "SELECT coalesce(sum(total - coalesce(charged, 0)), 0) FROM orders"
            " LEFT JOIN (SELECT order_id, sum(cents) / 100 AS charged FROM charges GROUP BY order_id) AS charges"
            " ON order_id = orders.id WHERE user_id = $1 AND status <> 'cancelled'",
            user_id,
        )


async def cancel_unpaid(ctx: Context) -> None:
    """Cancel orders that nobody has paid for within a day."""
    await ctx["db"].execute(
        "UPDATE orders SET status = 'cancelled' WHERE status = 'open' AND placed_at < now() - interval '1 day'"
    )


async def startup(ctx: Context) -> None:
    """Open the connection pool, and list this worker on the dashboard."""
    ctx["db"] = await db.open_pool()
    ctx["name"] = f"{socket.gethostname()}:{os.getpid()}"
    await ctx["redis"].sadd(WORKERS, ctx["name"])


async def shutdown(ctx: Context) -> None:
    """Take this worker off the dashboard, and close the pool."""
    await ctx["redis"].srem(WORKERS, ctx["name"])
    await ctx["db"].close()


class WorkerSettings:
    """What `arq` runs."""

    functions = (place_order, charge, func(confirm, max_tries=20), func(sign_receipt, timeout=60), balance)
    cron_jobs = (cron(cancel_unpaid, minute={0, 15, 30, 45}, run_at_startup=True),)
    on_startup = startup
    on_shutdown = shutdown
    redis_settings = REDIS
