"""A worker from its start to its end."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from arq import ArqRedis
from conftest import Shop, until

from shop.tasks import WORKERS


async def test_a_worker_runs_its_hooks_and_its_cron_job(empty_shop: Shop, redis: ArqRedis, database: Any) -> None:
    """It is on the dashboard while it runs, and cancels the order of two days ago that nobody has paid for."""
    user_id = await database.fetchval("INSERT INTO users (email, name) VALUES ('eve@example.com', 'Eve') RETURNING id")
    now = datetime.now(UTC)
    for placed_at in (now - timedelta(days=2), now):
        await database.execute(
            "INSERT INTO orders (user_id, ref, total, placed_at) VALUES ($1, $2, 10, $3)", user_id, uuid4(), placed_at
        )
    with empty_shop.worker() as worker:
        await until(lambda: database.fetchval("SELECT EXISTS (SELECT FROM orders WHERE status = 'cancelled')"))
        await until(lambda: is_idle(redis))  # stock arq exits with 1 if a signal meets it while it finishes a job
        listed = [name.decode() for name in await redis.smembers(WORKERS)]
        assert [str(worker.pid)] == [name.rpartition(":")[2] for name in listed]
    assert 0 == await redis.scard(WORKERS)
    orders = await database.fetch("SELECT status FROM orders ORDER BY placed_at")
    assert ["cancelled", "open"] == [order["status"] for order in orders]


async def is_idle(redis: ArqRedis) -> bool:
    """Return whether no job is in the queue: all have ended."""
    return not await redis.zcard(redis.default_queue_name)
